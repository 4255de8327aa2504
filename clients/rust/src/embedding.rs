//! Inputs and vectors.

use std::error::Error;
use std::fmt;

use tonic::{Code, Status};

use crate::v1::{EmbedResponse, Embedding, Encoding, Input, input};

/// Why one input of a call has no vector; its batch-mates are not affected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputError {
    /// The place of the input in the call.
    pub index: usize,
    /// `UNAVAILABLE` and `RESOURCE_EXHAUSTED` may pass: ask for the input again a little later.
    pub code: Code,
    /// What was wrong and what to do about it.
    pub message: String,
}

impl fmt::Display for InputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "input {}: {}", self.index, self.message)
    }
}

impl Error for InputError {}

impl From<InputError> for Status {
    fn from(error: InputError) -> Self {
        Status::new(error.code, error.to_string())
    }
}

/// Inputs of an [`EmbedRequest`](crate::v1::EmbedRequest), one for each text.
pub fn texts<T: Into<String>>(texts: impl IntoIterator<Item = T>) -> Vec<Input> {
    texts
        .into_iter()
        .map(|text| Input {
            input: Some(input::Input::Text(text.into())),
        })
        .collect()
}

/// The vectors of an answer, in the order of the inputs and whatever the encoding.
///
/// Each has as many elements as the model has dimensions, or says why there is none. To fail if any
/// of them failed, `collect::<Result<Vec<_>, _>>()`.
#[must_use]
pub fn vectors(
    response: &EmbedResponse,
) -> impl ExactSizeIterator<Item = Result<Vec<f32>, InputError>> {
    let embeddings = response.embeddings.iter().enumerate();
    embeddings.map(|(index, embedding)| {
        if let Some(error) = &embedding.error {
            return Err(InputError {
                index,
                code: Code::from_i32(error.code),
                message: error.message.clone(),
            });
        }
        let dimensions = response.dimensions as usize;
        match decode(embedding, response.encoding) {
            Some(vector) if vector.len() == dimensions => Ok(vector),
            _ => Err(InputError {
                index,
                code: Code::Internal,
                message: format!(
                    "the sidecar sent {} bytes in encoding {}, which this client cannot read as \
                     {dimensions} elements",
                    embedding.vector.len(),
                    response.encoding,
                ),
            }),
        }
    })
}

/// The elements of a vector; none if the encoding is not known or the bytes do not fit it.
fn decode(embedding: &Embedding, encoding: i32) -> Option<Vec<f32>> {
    let data = &embedding.vector[..];
    match Encoding::try_from(encoding).ok()? {
        Encoding::Unspecified | Encoding::Float32 => elements(data, f32::from_le_bytes),
        Encoding::Float16 => elements(data, |bytes| float16(u16::from_le_bytes(bytes))),
        Encoding::Int8 => elements(data, |byte| {
            f32::from(i8::from_le_bytes(byte)) * embedding.scale
        }),
    }
}

fn elements<const WIDTH: usize>(
    data: &[u8],
    read: impl Fn([u8; WIDTH]) -> f32,
) -> Option<Vec<f32>> {
    let (elements, rest) = data.as_chunks();
    rest.is_empty()
        .then(|| elements.iter().copied().map(read).collect())
}

/// Reads IEEE 754 half precision: 1 bit of sign, 5 of exponent, 10 of fraction.
fn float16(half: u16) -> f32 {
    let sign = u32::from(half >> 15) << 31;
    let fraction = half & 0x3ff;
    let magnitude = match u32::from(half >> 10 & 0x1f) {
        0 => (f32::from(fraction) / 16_777_216.0).to_bits(), // subnormal, in units of 2^-24
        exponent => {
            let widened = if exponent == 0x1f {
                0xff
            } else {
                exponent + 127 - 15
            };
            widened << 23 | u32::from(fraction) << 13
        }
    };
    f32::from_bits(sign | magnitude)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::ItemError;

    fn answer(encoding: i32, dimensions: u32, embeddings: Vec<Embedding>) -> EmbedResponse {
        EmbedResponse {
            embeddings,
            dimensions,
            encoding,
            ..Default::default()
        }
    }

    fn embedding(vector: Vec<u8>) -> Embedding {
        Embedding {
            vector,
            ..Default::default()
        }
    }

    fn failed(code: Code, message: &str) -> Embedding {
        let error = Some(ItemError {
            code: code as i32,
            message: message.to_owned(),
        });
        Embedding {
            error,
            ..Default::default()
        }
    }

    fn bits(encoding: Encoding, embedding: Embedding, dimensions: u32) -> Vec<u32> {
        let response = answer(encoding.into(), dimensions, vec![embedding]);
        let vector = vectors(&response).next().unwrap().unwrap();
        vector.into_iter().map(f32::to_bits).collect()
    }

    #[test]
    fn float32_is_read_bit_for_bit() {
        let numbers = [0.0_f32, -0.0, 1.5, f32::MIN_POSITIVE, f32::MAX, -1e-7];
        let expected: Vec<u32> = numbers.iter().map(|number| number.to_bits()).collect();
        let bytes: Vec<u8> = numbers.iter().flat_map(|each| each.to_le_bytes()).collect();
        for encoding in [Encoding::Unspecified, Encoding::Float32] {
            assert_eq!(bits(encoding, embedding(bytes.clone()), 6), expected);
        }
    }

    /// The definition: sign, two to the power of the exponent, and the fraction.
    fn defined(half: u16) -> f32 {
        let sign = if half >> 15 == 0 { 1.0 } else { -1.0 };
        let fraction = f32::from(half & 0x3ff) / 1024.0;
        match i32::from(half >> 10 & 0x1f) {
            0 => sign * fraction * 2.0_f32.powi(-14),
            0x1f => sign * f32::INFINITY,
            exponent => sign * (1.0 + fraction) * 2.0_f32.powi(exponent - 15),
        }
    }

    #[test]
    fn every_float16_is_read_exactly() {
        let is_nan = |half: &u16| half & 0x7fff > 0x7c00;
        let halves: Vec<u16> = (0..=u16::MAX).filter(|half| !is_nan(half)).collect();
        let bytes = halves.iter().flat_map(|half| half.to_le_bytes()).collect();
        let dimensions = u32::try_from(halves.len()).unwrap();
        let read = bits(Encoding::Float16, embedding(bytes), dimensions);
        let expected: Vec<u32> = halves.iter().map(|half| defined(*half).to_bits()).collect();
        assert_eq!(read, expected);
        assert!(
            (0..=u16::MAX)
                .filter(is_nan)
                .all(|nan| float16(nan).is_nan())
        );
    }

    #[test]
    fn int8_is_multiplied_by_the_scale_of_its_vector() {
        let mut embedding = embedding(vec![0x80, 0, 0x7f]);
        embedding.scale = 0.5;
        let expected = [-64.0_f32, 0.0, 63.5].map(f32::to_bits);
        assert_eq!(bits(Encoding::Int8, embedding, 3), expected);
    }

    #[test]
    fn an_input_that_failed_is_an_error_in_its_place() {
        let full = embedding(2.0_f32.to_le_bytes().to_vec());
        let wrong = failed(Code::InvalidArgument, "too long");
        let response = answer(0, 1, vec![full.clone(), wrong, full]);
        let vectors: Vec<_> = vectors(&response).collect();
        assert_eq!(vectors[0], Ok(vec![2.0]));
        assert_eq!(vectors[2], Ok(vec![2.0]));
        let status = Status::from(vectors[1].clone().unwrap_err());
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), "input 1: too long");
    }

    #[test]
    fn bytes_that_are_no_vector_of_the_model_are_an_error() {
        for (encoding, bytes) in [(1, 7), (1, 4), (2, 3), (3, 1), (99, 2)] {
            let response = answer(encoding, 2, vec![embedding(vec![0; bytes])]);
            let error = vectors(&response).next().unwrap().unwrap_err();
            assert_eq!(error.code, Code::Internal);
            let expected = format!("the sidecar sent {bytes} bytes in encoding {encoding}");
            assert!(error.message.starts_with(&expected), "{error}");
        }
    }
}
