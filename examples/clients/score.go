// go run score.go http://127.0.0.1:8080
package main

import (
	"bytes"
	"encoding/json"
	"log"
	"net/http"
	"os"
	"time"
)

const body = `{
  "user_id": "gardener",
  "candidates": {"id": ["ice-axes-1", "greenhouses-1"], "bid": [1.20, 0.40]},
  "top_k": 2
}`

type reply struct {
	Candidates struct {
		ID   []string  `json:"id"`
		PCTR []float64 `json:"pctr"`
		ECPM []float64 `json:"ecpm"`
	} `json:"candidates"`
}

func main() {
	// One client for all requests: it keeps connections open.
	client := &http.Client{Timeout: 2 * time.Second}
	response, err := client.Post(os.Args[1]+"/v1/score", "application/json", bytes.NewBufferString(body))
	if err != nil {
		log.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		log.Fatal(response.Status)
	}
	var found reply
	if err := json.NewDecoder(response.Body).Decode(&found); err != nil {
		log.Fatal(err)
	}
	json.NewEncoder(os.Stdout).Encode(found)
}
