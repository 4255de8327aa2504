package embercache_test

import (
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	embercache "embercache.io/go"
	"embercache.io/go/embercachev1"
)

func answer(encoding embercachev1.Encoding, dimensions uint32, embeddings ...*embercachev1.Embedding) *embercachev1.EmbedResponse {
	return &embercachev1.EmbedResponse{Encoding: encoding, Dimensions: dimensions, Embeddings: embeddings}
}

func failed(code codes.Code, message string) *embercachev1.Embedding {
	return &embercachev1.Embedding{Error: &embercachev1.ItemError{Code: int32(code), Message: message}}
}

func halves(values ...uint16) []byte {
	var data []byte
	for _, value := range values {
		data = binary.LittleEndian.AppendUint16(data, value)
	}
	return data
}

func TestFloat32VectorsAreReadBitForBit(t *testing.T) {
	expected := []float32{0, float32(math.Copysign(0, -1)), 1.5, -0.1, math.MaxFloat32, math.SmallestNonzeroFloat32}
	var data []byte
	for _, value := range expected {
		data = binary.LittleEndian.AppendUint32(data, math.Float32bits(value))
	}
	for _, encoding := range []embercachev1.Encoding{
		embercachev1.Encoding_ENCODING_FLOAT32, embercachev1.Encoding_ENCODING_UNSPECIFIED,
	} {
		vectors, err := embercache.Vectors(answer(encoding, 6, &embercachev1.Embedding{Vector: data}))
		if err != nil {
			t.Fatal(err)
		}
		for i, value := range vectors[0] {
			if math.Float32bits(value) != math.Float32bits(expected[i]) {
				t.Errorf("%v: element %d is %v, not %v", encoding, i, value, expected[i])
			}
		}
	}
}

func TestFloat16VectorsAreReadExactly(t *testing.T) {
	expected := map[uint16]float32{
		0x0000: 0, 0x3c00: 1, 0xbc00: -1, 0x3555: 0.333251953125, 0x7bff: 65504, 0xfbff: -65504,
		0x0400: 0x1p-14, // the smallest that is normal
		0x03ff: 0x1p-14 - 0x1p-24, 0x0001: 0x1p-24, 0x8001: -0x1p-24,
		0x7c00: float32(math.Inf(1)), 0xfc00: float32(math.Inf(-1)),
	}
	for half, value := range expected {
		response := answer(embercachev1.Encoding_ENCODING_FLOAT16, 1, &embercachev1.Embedding{Vector: halves(half)})
		vectors, err := embercache.Vectors(response)
		if err != nil || vectors[0][0] != value {
			t.Errorf("%#04x is read as %v, not %v (%v)", half, vectors, value, err)
		}
	}
	response := answer(embercachev1.Encoding_ENCODING_FLOAT16, 2, &embercachev1.Embedding{Vector: halves(0x7e00, 0x8000)})
	vectors, err := embercache.Vectors(response)
	if err != nil || vectors[0][0] == vectors[0][0] || !math.Signbit(float64(vectors[0][1])) {
		t.Errorf("NaN and -0 are read as %v (%v)", vectors, err)
	}
}

func TestEveryFloat16OfOneSignIsLargerThanTheOneBefore(t *testing.T) {
	var all []uint16
	for half := range uint16(0x7c01) { // up to infinity
		all = append(all, half)
	}
	response := answer(embercachev1.Encoding_ENCODING_FLOAT16, uint32(len(all)), &embercachev1.Embedding{Vector: halves(all...)})
	vectors, err := embercache.Vectors(response)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.IsSorted(vectors[0]) || len(slices.Compact(vectors[0])) != len(all) {
		t.Error("they are not in order")
	}
}

func TestInt8VectorsAreScaledEachByItsOwn(t *testing.T) {
	vectors, err := embercache.Vectors(answer(embercachev1.Encoding_ENCODING_INT8, 3,
		&embercachev1.Embedding{Vector: []byte{0x80, 0, 127}, Scale: 0.5},
		&embercachev1.Embedding{Vector: []byte{0xff, 1, 2}, Scale: 0.25},
	))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(vectors[0], []float32{-64, 0, 63.5}) || !slices.Equal(vectors[1], []float32{-0.25, 0.25, 0.5}) {
		t.Errorf("they are read as %v", vectors)
	}
}

func TestAnInputThatFailedLeavesTheOthersTheirVectorsAndSaysWhy(t *testing.T) {
	vectors, err := embercache.Vectors(answer(embercachev1.Encoding_ENCODING_INT8, 1,
		&embercachev1.Embedding{Vector: []byte{1}, Scale: 1},
		failed(codes.NotFound, "not cached"),
		&embercachev1.Embedding{Vector: []byte{2}, Scale: 1},
		failed(codes.InvalidArgument, "too long"),
	))
	if len(vectors) != 4 || vectors[0][0] != 1 || vectors[1] != nil || vectors[2][0] != 2 || vectors[3] != nil {
		t.Errorf("the vectors are %v", vectors)
	}
	var first *embercache.ItemError
	if !errors.As(err, &first) || first.Index != 1 || first.Code != codes.NotFound || first.Message != "not cached" {
		t.Errorf("the first error is %v", first)
	}
	if status.Code(err) != codes.NotFound {
		t.Errorf("its status is %v", status.Code(err))
	}
	if err.Error() != "input 1: not cached (NotFound)\ninput 3: too long (InvalidArgument)" {
		t.Errorf("the error says %q", err)
	}
}

func TestAnAnswerThatMakesNoSenseIsAnErrorThatNamesTheInput(t *testing.T) {
	good := &embercachev1.Embedding{Vector: []byte{1}, Scale: 1}
	for expected, response := range map[string]*embercachev1.EmbedResponse{
		"input 1: the sidecar sent a vector of 2 dimensions, not 1": answer(
			embercachev1.Encoding_ENCODING_INT8, 1, good, &embercachev1.Embedding{Vector: []byte{1, 2}}),
		"input 0: the sidecar sent 3 bytes, which are no vector": answer(
			embercachev1.Encoding_ENCODING_FLOAT16, 1, &embercachev1.Embedding{Vector: []byte{1, 2, 3}}),
		"input 0: this client does not know the encoding 99": answer(99, 1, good),
	} {
		vectors, err := embercache.Vectors(response)
		if vectors != nil || err == nil || !strings.Contains(err.Error(), expected) {
			t.Errorf("the error is %v, not %q", err, expected)
		}
	}
}
