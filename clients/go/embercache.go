// Package embercache opens connections to an Embercache sidecar, which answers embedding, search
// and generation calls from cache.
//
// [Dial] gives a connection for the clients that package embercachev1 generates from the
// contract, with the right retries; [Vectors] reads the vectors of an answer:
//
//	conn, err := embercache.Dial("")
//	// ...
//	response, err := embercachev1.NewEmbedServiceClient(conn).Embed(ctx, &embercachev1.EmbedRequest{
//		Inputs: embercache.Texts("a text", "another"),
//	})
//	// ...
//	vectors, err := embercache.Vectors(response)
//
// Failed calls are errors of gRPC: google.golang.org/grpc/status tells their codes. The contract
// says which code means what, in the comments of each service.
package embercache
