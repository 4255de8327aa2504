package embercache

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
)

// DefaultAddress is where a sidecar listens unless it is told otherwise.
const DefaultAddress = "127.0.0.1:50551"

const maxMessageBytes = 64 << 20

var (
	hostAndPort = regexp.MustCompile(`^(?:\[[0-9A-Fa-f:.]+\]|[^\s:/?#%@\[\]]+):([0-9]{1,5})$`)
	socket      = regexp.MustCompile(`(?s)^unix:(//)?(/?[^/].*)$`)
)

// All of these calls can be repeated without harm. EmbedStream is not among them: only its caller
// knows what was answered. Health is not: it is asked for the truth now.
//
// UNAVAILABLE and RESOURCE_EXHAUSTED are what the sidecar answers when the same request may succeed
// a little later, and what gRPC says of a sidecar that restarts; a server that ends may also cancel
// a call that has only just reached it. Five attempts are the most that gRPC allows; with waits of
// 0.1, 0.3, 0.9 and 2 seconds they outlast the restart of a sidecar.
const serviceConfig = `{
  "methodConfig": [{
    "name": [
      {"service": "embercache.v1.EmbedService", "method": "Embed"},
      {"service": "embercache.v1.EmbedService", "method": "ListModels"},
      {"service": "embercache.v1.SearchService"},
      {"service": "embercache.v1.GenerateService"},
      {"service": "embercache.v1.CacheService"}
    ],
    "retryPolicy": {
      "maxAttempts": 5,
      "initialBackoff": "0.1s",
      "maxBackoff": "2s",
      "backoffMultiplier": 3,
      "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED"]
    }
  }]
}`

// Dial opens a connection to the sidecar at address, which is "HOST:PORT", "unix:PATH" or
// "unix:///PATH"; if it is empty, to EMBERCACHE_ADDRESS from the environment, else to
// [DefaultAddress]. Nothing is sent before the first call. The connection is safe for concurrent
// use; close it when done.
//
// A call that fails with UNAVAILABLE or RESOURCE_EXHAUSTED has been tried five times, within about
// 3.3 seconds, unless its context ended before. A stream is retried until its first message. Calls
// have no deadline but that of their context. To wait until that deadline for a sidecar that is
// away, give the call, or Dial by way of [grpc.WithDefaultCallOptions], the option
// [grpc.WaitForReady].
//
// Options are applied after those of this package, so they win.
func Dial(address string, options ...grpc.DialOption) (*grpc.ClientConn, error) {
	target, err := target(address)
	if err != nil {
		return nil, err
	}
	defaults := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(maxMessageBytes),
			grpc.MaxCallSendMsgSize(maxMessageBytes),
			// gRPC forgets requests larger than this, and then cannot retry them.
			grpc.MaxRetryRPCBufferSize(maxMessageBytes),
		),
		// A sidecar is next door: a proxy in the environment is not meant for it.
		grpc.WithNoProxy(),
		// A sidecar that restarts is back within seconds: look for it more often than gRPC would.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{
				BaseDelay:  100 * time.Millisecond,
				Multiplier: 1.6,
				Jitter:     0.2,
				MaxDelay:   2 * time.Second,
			},
			MinConnectTimeout: 5 * time.Second,
		}),
	}
	return grpc.NewClient(target, append(defaults, options...)...)
}

func target(address string) (string, error) {
	source := "the address"
	if address == "" {
		address, source = os.Getenv("EMBERCACHE_ADDRESS"), "EMBERCACHE_ADDRESS"
	}
	if address == "" {
		address = DefaultAddress
	}
	if match := hostAndPort.FindStringSubmatch(address); match != nil {
		if port, _ := strconv.Atoi(match[1]); port > 0 && port < 1<<16 {
			return address, nil
		}
	}
	match := socket.FindStringSubmatch(address)
	if match == nil || match[1] != "" && match[2][0] != '/' {
		return "", fmt.Errorf(
			"embercache: %s is %q; write HOST:PORT (1 to 65535), unix:///absolute/path or unix:path", source, address)
	}
	path, err := filepath.Abs(match[2])
	if err != nil {
		return "", fmt.Errorf("embercache: %s is %q: %w", source, address, err)
	}
	// gRPC takes it for a URL, in which some characters of a path mean something else.
	return (&url.URL{Scheme: "unix", Path: path}).String(), nil
}
