"""What is to be seen of a running service: dashboards, made from code, and a live run that proves that they show it."""
