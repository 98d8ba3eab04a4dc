// Package work is what the lock protects.
package work

import (
	"context"
	"fmt"
	"os"
	"time"
)

// Do adds one to a counter in a file. It fails if another program does so at the same time, and takes long enough for that to be
// noticed. A fencing token must be higher than the one before: what a lock protects should check that.
func Do(ctx context.Context, token ...int64) error {
	file := os.Getenv("COUNTER")
	inside, err := os.OpenFile(file+".inside", os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("another program is inside: %w", err)
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
