"""Durable jobs: requests that outlive their call, their server and its restarts."""
