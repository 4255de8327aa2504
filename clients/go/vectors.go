package embercache

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"embercache.io/go/embercachev1"
)

// ItemError says why one input of a call has no vector; its batch-mates are not affected.
type ItemError struct {
	// Index is the place of the input in the call.
	Index int
	// Code is a status code of gRPC. UNAVAILABLE and RESOURCE_EXHAUSTED may pass: ask for the
	// input again a little later.
	Code codes.Code
	// Message says what was wrong and what to do about it.
	Message string
}

func (e *ItemError) Error() string {
	return fmt.Sprintf("input %d: %s (%s)", e.Index, e.Message, e.Code)
}

// GRPCStatus lets status.Code tell the code of this error.
func (e *ItemError) GRPCStatus() *status.Status {
	return status.New(e.Code, e.Message)
}

// Texts makes inputs of texts.
func Texts(texts ...string) []*embercachev1.Input {
	inputs := make([]*embercachev1.Input, len(texts))
	for i, text := range texts {
		inputs[i] = &embercachev1.Input{Input: &embercachev1.Input_Text{Text: text}}
	}
	return inputs
}

// Vectors reads the vectors of an answer, in the order of the inputs and whatever the encoding.
//
// If some inputs have no vector, theirs is nil, and the error joins an [*ItemError] for each of
// them; errors.As finds the first. Any other error means that the answer makes no sense, and comes
// without vectors.
func Vectors(response *embercachev1.EmbedResponse) ([][]float32, error) {
	vectors := make([][]float32, len(response.GetEmbeddings()))
	var failed []error
	for i, embedding := range response.GetEmbeddings() {
		if e := embedding.GetError(); e != nil {
			failed = append(failed, &ItemError{i, codes.Code(e.GetCode()), e.GetMessage()})
			continue
		}
		vector, err := decode(embedding, response.GetEncoding())
		if err != nil {
			return nil, fmt.Errorf("embercache: input %d: %w", i, err)
		}
		if len(vector) != int(response.GetDimensions()) {
			return nil, fmt.Errorf("embercache: input %d: the sidecar sent a vector of %d dimensions, not %d",
				i, len(vector), response.GetDimensions())
		}
		vectors[i] = vector
	}
	return vectors, errors.Join(failed...)
}

func decode(embedding *embercachev1.Embedding, encoding embercachev1.Encoding) ([]float32, error) {
	data := embedding.GetVector()
	width, ok := widths[encoding]
	if !ok {
		return nil, fmt.Errorf("this client does not know the encoding %v; a newer one may", encoding)
	}
	if len(data)%width != 0 {
		return nil, fmt.Errorf("the sidecar sent %d bytes, which are no vector of %v", len(data), encoding)
	}
	vector := make([]float32, len(data)/width)
	for i := range vector {
		switch width {
		case 4:
			vector[i] = math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:]))
		case 2:
			vector[i] = float16(binary.LittleEndian.Uint16(data[2*i:]))
		case 1:
			vector[i] = float32(int8(data[i])) * embedding.GetScale()
		}
	}
	return vector, nil
}

// Bytes of one element.
var widths = map[embercachev1.Encoding]int{
	embercachev1.Encoding_ENCODING_UNSPECIFIED: 4,
	embercachev1.Encoding_ENCODING_FLOAT32:     4,
	embercachev1.Encoding_ENCODING_FLOAT16:     2,
	embercachev1.Encoding_ENCODING_INT8:        1,
}

// float16 reads IEEE 754 half precision: 1 bit of sign, 5 of exponent, 10 of fraction.
func float16(half uint16) float32 {
	exponent, fraction := int(half>>10&0x1f), float64(half&0x3ff)
	var magnitude float64
	switch exponent {
	case 0: // subnormal
		magnitude = math.Ldexp(fraction, -24)
	case 0x1f: // the sidecar sends neither infinity nor NaN, but the format has them
		magnitude = math.Inf(1)
		if fraction != 0 {
			magnitude = math.NaN()
		}
	default:
		magnitude = math.Ldexp(1024+fraction, exponent-25)
	}
	if half>>15 == 1 {
		magnitude = -magnitude
	}
	return float32(magnitude)
}
