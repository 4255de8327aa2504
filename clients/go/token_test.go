package embercache

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestATokenThatIsReplacedIsShownWithinTenSecondsAndTheLastOneMeanwhile(t *testing.T) {
	file, now := filepath.Join(t.TempDir(), "token"), time.Now()
	write := func(content string) {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("first\n")
	token, err := newToken(file, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	expect := func(want string) {
		t.Helper()
		if shown, err := token.GetRequestMetadata(t.Context()); err != nil || shown["authorization"] != "Bearer "+want {
			t.Errorf("%q, %v; not %q", shown, err, want)
		}
	}
	write("second")
	expect("first")
	now = now.Add(rereadAfter + 1)
	expect("second")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	now = now.Add(rereadAfter + 1)
	expect("second")
	write("third")
	expect("second")
	now = now.Add(rereadAfter + 1)
	expect("third")
}
