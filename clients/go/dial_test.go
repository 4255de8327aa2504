package embercache_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	embercache "embercache.io/go"
	"embercache.io/go/embercachev1"
)

const hangGuard = 60 * time.Second

// TestMain sets a proxy that is not there, for all tests, because Go reads the environment once.
func TestMain(m *testing.M) {
	for _, name := range []string{"http_proxy", "https_proxy"} {
		os.Setenv(name, "http://127.0.0.1:1")
	}
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "no_proxy"} {
		os.Unsetenv(name)
	}
	os.Exit(m.Run())
}

// server fails the first calls, with failure, and answers those that follow.
type server struct {
	embercachev1.UnimplementedEmbedServiceServer
	embercachev1.UnimplementedGenerateServiceServer
	failures int32
	failure  codes.Code
	vector   []byte
	calls    atomic.Int32
	seen     atomic.Value // the metadata of the last call
}

func (s *server) fails() error {
	if s.calls.Add(1) <= s.failures {
		return status.Error(s.failure, "not now")
	}
	return nil
}

func (s *server) Embed(ctx context.Context, _ *embercachev1.EmbedRequest) (*embercachev1.EmbedResponse, error) {
	seen, _ := metadata.FromIncomingContext(ctx)
	s.seen.Store(seen)
	if err := s.fails(); err != nil {
		return nil, err
	}
	return &embercachev1.EmbedResponse{Embeddings: []*embercachev1.Embedding{{Vector: s.vector}}}, nil
}

func (s *server) EmbedStream(embercachev1.EmbedService_EmbedStreamServer) error {
	return s.fails()
}

func (s *server) GenerateStream(_ *embercachev1.GenerateRequest, stream embercachev1.GenerateService_GenerateStreamServer) error {
	if err := s.fails(); err != nil {
		return err
	}
	return stream.Send(&embercachev1.GenerateStreamResponse{Text: "a piece"})
}

func (s *server) listen(t *testing.T, network, address string) (string, *grpc.Server) {
	t.Helper()
	listener, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	running := grpc.NewServer(grpc.MaxRecvMsgSize(64 << 20))
	embercachev1.RegisterEmbedServiceServer(running, s)
	embercachev1.RegisterGenerateServiceServer(running, s)
	go running.Serve(listener)
	t.Cleanup(running.Stop)
	return listener.Addr().String(), running
}

func dial(t *testing.T, address string, options ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	conn, err := embercache.Dial(address, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), hangGuard)
	t.Cleanup(cancel)
	return ctx
}

func embed(t *testing.T, conn *grpc.ClientConn) error {
	request := &embercachev1.EmbedRequest{Inputs: embercache.Texts("a text")}
	_, err := embercachev1.NewEmbedServiceClient(conn).Embed(deadline(t), request)
	return err
}

func TestACallThatMaySucceedLaterIsTriedFiveTimes(t *testing.T) {
	for _, code := range []codes.Code{codes.Unavailable, codes.ResourceExhausted, codes.Canceled} {
		t.Run(code.String(), func(t *testing.T) {
			t.Parallel()
			patient := &server{failures: 4, failure: code}
			address, _ := patient.listen(t, "tcp", "127.0.0.1:0")
			if err := embed(t, dial(t, address)); err != nil || patient.calls.Load() != 5 {
				t.Errorf("after 4 failures: %v in %d calls", err, patient.calls.Load())
			}
			hopeless := &server{failures: 9, failure: code}
			address, _ = hopeless.listen(t, "tcp", "127.0.0.1:0")
			if err := embed(t, dial(t, address)); status.Code(err) != code || hopeless.calls.Load() != 5 {
				t.Errorf("after 5 failures: %v in %d calls", err, hopeless.calls.Load())
			}
		})
	}
}

func TestACallThatIsWrongIsTriedOnce(t *testing.T) {
	for _, code := range []codes.Code{
		codes.InvalidArgument, codes.NotFound, codes.FailedPrecondition, codes.DeadlineExceeded, codes.Internal,
		codes.Unknown, codes.Unauthenticated, codes.PermissionDenied,
	} {
		wrong := &server{failures: 9, failure: code}
		address, _ := wrong.listen(t, "tcp", "127.0.0.1:0")
		if err := embed(t, dial(t, address)); status.Code(err) != code || wrong.calls.Load() != 1 {
			t.Errorf("%v: %v in %d calls", code, err, wrong.calls.Load())
		}
	}
}

func TestAStreamOfGenerationIsRetriedUntilItsFirstMessage(t *testing.T) {
	t.Parallel()
	busy := &server{failures: 1, failure: codes.Unavailable}
	address, _ := busy.listen(t, "tcp", "127.0.0.1:0")
	client := embercachev1.NewGenerateServiceClient(dial(t, address))
	stream, err := client.GenerateStream(deadline(t), &embercachev1.GenerateRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if piece, err := stream.Recv(); err != nil || piece.GetText() != "a piece" {
		t.Errorf("%v, %v", piece, err)
	}
}

func TestAnEmbedStreamIsNotRetried(t *testing.T) {
	busy := &server{failures: 1, failure: codes.Unavailable}
	address, _ := busy.listen(t, "tcp", "127.0.0.1:0")
	stream, err := embercachev1.NewEmbedServiceClient(dial(t, address)).EmbedStream(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable || busy.calls.Load() != 1 {
		t.Errorf("%v in %d calls", err, busy.calls.Load())
	}
}

func TestMessagesOfManyMegabytesPassAndAreRetried(t *testing.T) {
	t.Parallel()
	const size = 20 << 20
	large := &server{failures: 1, failure: codes.Unavailable, vector: make([]byte, size)}
	address, _ := large.listen(t, "tcp", "127.0.0.1:0")
	client := embercachev1.NewEmbedServiceClient(dial(t, address))
	request := &embercachev1.EmbedRequest{Inputs: embercache.Texts(strings.Repeat("a", size))}
	response, err := client.Embed(deadline(t), request)
	if err != nil || len(response.GetEmbeddings()[0].GetVector()) != size {
		t.Errorf("%v", err)
	}
}

// away stops a server and returns when the connection has found out that nobody is there.
func away(t *testing.T, conn *grpc.ClientConn, running *grpc.Server) {
	running.Stop()
	for state := conn.GetState(); state != connectivity.TransientFailure; state = conn.GetState() {
		conn.Connect()
		if !conn.WaitForStateChange(deadline(t), state) {
			t.Fatal("the connection does not notice")
		}
	}
}

func TestACallSurvivesARestartOfTheSidecar(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "s")
	restarted := &server{}
	_, running := restarted.listen(t, "unix", socket)
	conn := dial(t, "unix:"+socket)
	if err := embed(t, conn); err != nil {
		t.Fatal(err)
	}
	away(t, conn, running)
	ended := make(chan error)
	go func() { ended <- embed(t, conn) }()
	restarted.listen(t, "unix", socket)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestASidecarThatStaysAwayIsFoundOutButWithWaitForReadyWaitedFor(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "s")
	patient, ended := dial(t, "unix:"+socket, grpc.WithDefaultCallOptions(grpc.WaitForReady(true))), make(chan error)
	go func() { ended <- embed(t, patient) }()
	if err := embed(t, dial(t, "unix:"+socket)); status.Code(err) != codes.Unavailable {
		t.Error(err)
	}
	(&server{}).listen(t, "unix", socket)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestASidecarThatIsAwayIsLookedForMoreThanOnceASecond(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	var connections atomic.Int32
	go func() {
		for {
			closed, err := listener.Accept()
			if err != nil {
				return
			}
			connections.Add(1)
			closed.Close()
		}
	}()
	err = embed(t, dial(t, "unix:"+listener.Addr().String())) // fails after about 3.3 seconds
	if status.Code(err) != codes.Unavailable || connections.Load() < 3 {
		t.Errorf("%v after %d connections", err, connections.Load())
	}
}

func TestOptionsOfTheCallerWin(t *testing.T) {
	busy := &server{failures: 1, failure: codes.Unavailable}
	address, _ := busy.listen(t, "tcp", "127.0.0.1:0")
	err := embed(t, dial(t, address, grpc.WithDisableRetry()))
	if status.Code(err) != codes.Unavailable || busy.calls.Load() != 1 {
		t.Errorf("%v in %d calls", err, busy.calls.Load())
	}
}

func TestTheAddressGivenWinsOverTheEnvironmentWhichWinsOverTheDefault(t *testing.T) {
	t.Setenv("EMBERCACHE_ADDRESS", "from.environment:1")
	if target := dial(t, "given:1").Target(); target != "given:1" {
		t.Error(target)
	}
	if target := dial(t, "").Target(); target != "from.environment:1" {
		t.Error(target)
	}
	t.Setenv("EMBERCACHE_ADDRESS", "")
	if target := dial(t, "").Target(); target != "127.0.0.1:50551" {
		t.Error(target)
	}
}

func TestEveryFormOfAnAddressReachesTheSidecar(t *testing.T) {
	folder := t.TempDir()
	t.Chdir(folder)
	one := &server{}
	one.listen(t, "unix", filepath.Join(folder, "s"))
	tcp, _ := one.listen(t, "tcp", "127.0.0.1:0")
	_, port, _ := net.SplitHostPort(tcp)
	for _, address := range []string{tcp, "localhost:" + port, "unix://" + folder + "/s", "unix:" + folder + "/s", "unix:s"} {
		if err := embed(t, dial(t, address)); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
}

func TestAProxyInTheEnvironmentIsNotAsked(t *testing.T) {
	address, _ := (&server{}).listen(t, "tcp", "127.0.0.1:0")
	_, port, _ := net.SplitHostPort(address)
	// The same server, but Go asks no proxy for 127.0.0.1 in any case.
	if err := embed(t, dial(t, "0.0.0.0:"+port)); err != nil {
		t.Error(err)
	}
}

// addresses reads the table that the clients of other languages are tested with, too.
func addresses(t *testing.T, kind string) []string {
	t.Helper()
	table, err := os.ReadFile("../testdata/addresses.txt")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for line := range strings.Lines(string(table)) {
		if address, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), kind+" "); ok {
			found = append(found, address)
		}
	}
	if len(found) == 0 {
		t.Fatal("the table has none to", kind)
	}
	return found
}

func TestWhatIsAnAddressIsTaken(t *testing.T) {
	for _, address := range addresses(t, "accept") {
		dial(t, address)
	}
}

func TestASocketMayHaveAnyName(t *testing.T) {
	names := addresses(t, "socket")
	folder := t.TempDir()
	t.Chdir(folder)
	for _, name := range names {
		(&server{}).listen(t, "unix", filepath.Join(folder, name))
		for _, address := range []string{"unix:" + folder + "/" + name, "unix://" + folder + "/" + name, "unix:" + name} {
			if err := embed(t, dial(t, address)); err != nil {
				t.Errorf("%s: %v", address, err)
			}
		}
	}
}

func TestAWrongAddressIsRefusedWithWhereItCameFrom(t *testing.T) {
	for _, address := range addresses(t, "refuse") {
		_, err := embercache.Dial(address)
		if err == nil || !strings.Contains(err.Error(), "the address is \""+address+"\"; write HOST:PORT (1 to 65535)") {
			t.Errorf("%s: %v", address, err)
		}
	}
	t.Setenv("EMBERCACHE_ADDRESS", "localhost")
	_, err := embercache.Dial("")
	if err == nil || !strings.Contains(err.Error(), `EMBERCACHE_ADDRESS is "localhost"`) {
		t.Error(err)
	}
}
