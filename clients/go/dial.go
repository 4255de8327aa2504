package embercache

import (
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

const maxMessageBytes = 64 << 20

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

// Dial opens a connection to the sidecar at address, which is "HOST:PORT", "tls://HOST:PORT",
// "unix:PATH" or "unix:///PATH"; if it is empty, to EMBERCACHE_ADDRESS from the environment, else
// to [DefaultAddress]. Nothing is sent before the first call. The connection is safe for concurrent
// use; close it when done.
//
// A call that fails with UNAVAILABLE or RESOURCE_EXHAUSTED has been tried five times, within about
// 3.3 seconds, unless its context ended before. A stream is retried until its first message. Calls
// have no deadline but that of their context. To wait until that deadline for a sidecar that is
// away, give the call, or Dial by way of [grpc.WithDefaultCallOptions], the option
// [grpc.WaitForReady].
//
// Tokens and certificates are in [Files], which are an option like any other, or in the
// environment. Options are applied after those of this package, so they win.
func Dial(address string, options ...grpc.DialOption) (*grpc.ClientConn, error) {
	where, err := find(address)
	if err != nil {
		return nil, err
	}
	var files Files
	for _, option := range options {
		if given, ok := option.(Files); ok {
			files = given
		}
	}
	shown, err := files.orOfEnvironment().credentials(where)
	if err != nil {
		return nil, err
	}
	defaults := []grpc.DialOption{
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
	return grpc.NewClient(where.target, slices.Concat(defaults, shown, options)...)
}
