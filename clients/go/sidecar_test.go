//go:build sidecar

package embercache_test

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	embercache "embercache.io/go"
	"embercache.io/go/embercachev1"
)

// sidecar connects to the one at EMBERCACHE_ADDRESS; these tests fail without it.
func sidecar(t *testing.T) *grpc.ClientConn {
	t.Helper()
	if os.Getenv("EMBERCACHE_ADDRESS") == "" {
		t.Fatal("set EMBERCACHE_ADDRESS to the address of a sidecar, or run make test-clients")
	}
	return dial(t, "")
}

// newTexts are not cached yet.
func newTexts() []*embercachev1.Input {
	now := time.Now()
	return embercache.Texts(fmt.Sprint("glowing coal at ", now), fmt.Sprint("an answer that is kept at ", now))
}

func vectors(t *testing.T, conn *grpc.ClientConn, request *embercachev1.EmbedRequest) [][]float32 {
	t.Helper()
	response, err := embercachev1.NewEmbedServiceClient(conn).Embed(deadline(t), request)
	if err != nil {
		t.Fatal(err)
	}
	read, err := embercache.Vectors(response)
	if err != nil {
		t.Fatal(err)
	}
	return read
}

func TestSmallerEncodingsAreReadAsNearlyTheSameVectors(t *testing.T) {
	conn, inputs := sidecar(t), newTexts()
	exact := vectors(t, conn, &embercachev1.EmbedRequest{Inputs: inputs})
	for encoding, bound := range map[embercachev1.Encoding]float64{
		embercachev1.Encoding_ENCODING_FLOAT16: 0x1p-12, // half a step of a number below 1
		embercachev1.Encoding_ENCODING_INT8:    0.5 / 127,
	} {
		coarse := vectors(t, conn, &embercachev1.EmbedRequest{Inputs: inputs, Encoding: encoding})
		for i := range exact {
			same := true
			for j := range exact[i] {
				difference := math.Abs(float64(exact[i][j] - coarse[i][j]))
				same = same && difference == 0
				if difference > bound {
					t.Fatalf("%v: element %d is %v, not %v", encoding, j, coarse[i][j], exact[i][j])
				}
			}
			if same {
				t.Errorf("%v: the vectors are exactly those of float32", encoding)
			}
		}
	}
}

// The file named by EMBERCACHE_TEST_EXPECTED has lines "ENCODING SHA256 TEXT"; the digest is of the
// decoded vector as float32 in little-endian order.
func TestEveryEncodingIsDecodedToTheBitsThatAreExpected(t *testing.T) {
	path := os.Getenv("EMBERCACHE_TEST_EXPECTED")
	if path == "" {
		t.Skip("make test-clients writes the file that this test needs")
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	conn := sidecar(t)
	for line := range strings.Lines(string(content)) {
		part := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 3)
		encoding, ok := embercachev1.Encoding_value[part[0]]
		if !ok {
			t.Fatalf("there is no encoding %q", part[0])
		}
		read := vectors(t, conn, &embercachev1.EmbedRequest{
			Inputs:   embercache.Texts(part[2]),
			Encoding: embercachev1.Encoding(encoding),
		})
		digest := sha256.New()
		binary.Write(digest, binary.LittleEndian, read[0])
		if fmt.Sprintf("%x", digest.Sum(nil)) != part[1] {
			t.Errorf("%s is decoded to other bits of %.40q", part[0], part[2])
		}
	}
}

func TestAnInputThatIsNotCachedIsAnErrorOfThatInputAlone(t *testing.T) {
	conn, inputs := sidecar(t), newTexts()
	vectors(t, conn, &embercachev1.EmbedRequest{Inputs: inputs[:1]})
	response, err := embercachev1.NewEmbedServiceClient(conn).Embed(deadline(t), &embercachev1.EmbedRequest{
		Inputs: inputs,
		Cache:  &embercachev1.CacheOptions{Mode: embercachev1.CacheMode_CACHE_MODE_ONLY_IF_CACHED},
	})
	if err != nil {
		t.Fatal(err)
	}
	read, err := embercache.Vectors(response)
	if status.Code(err) != codes.NotFound || len(read[0]) == 0 || read[1] != nil {
		t.Errorf("the error is %v", err)
	}
}

func TestAModelThatTheSidecarDoesNotHaveIsRefused(t *testing.T) {
	_, err := embercachev1.NewEmbedServiceClient(sidecar(t)).Embed(deadline(t), &embercachev1.EmbedRequest{
		Inputs: newTexts(),
		Model:  "unheard-of",
	})
	if status.Code(err) != codes.NotFound {
		t.Errorf("the error is %v", err)
	}
}
