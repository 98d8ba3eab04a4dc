package main

import (
	"context"
	"fmt"
	"os"
	"time"
)

// work is what the lock protects: it adds one to a counter in a file, slowly enough for somebody else who is inside at the same
// time to be noticed. With a fencing token it refuses to come too late, as a resource of a user should.
func work(ctx context.Context, token ...int64) error {
	file := os.Getenv("COUNTER")
	inside, err := os.OpenFile(file+".inside", os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("somebody else is inside: %w", err)
	}
	defer os.Remove(inside.Name())
	defer inside.Close()

	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var count, highest int64
	if _, err := fmt.Sscan(string(text), &count, &highest); err != nil {
		return err
	}
	for _, token := range token {
		if token <= highest {
			return fmt.Errorf("token %d is not above %d", token, highest)
		}
		highest = token
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(2 * time.Millisecond):
	}
	return os.WriteFile(file, []byte(fmt.Sprintln(count+1, highest)), 0o600)
}
