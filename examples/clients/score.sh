#!/bin/sh
# sh score.sh http://127.0.0.1:8080
curl --silent --fail-with-body "$1/v1/score" --header 'Content-Type: application/json' --data '{
  "user_id": "gardener",
  "candidates": {"id": ["ice-axes-1", "greenhouses-1"], "bid": [1.20, 0.40]},
  "top_k": 2
}'
