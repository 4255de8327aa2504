//! Against the real sidecar at `EMBERCACHE_ADDRESS`, with the models minilm and smollm2-135m:
//! `cargo test --test sidecar -- --ignored`.

use std::collections::HashSet;
use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;
use std::{env, fs};

use embercache::Embercache;
use embercache::tonic::{Code, Request};
use embercache::v1::generate_request::Prompt;
use embercache::v1::search_request::Query;
use embercache::v1::{
    Chunk, DeleteRequest, Document, EmbedRequest, Encoding, GenerateRequest, GenerateSummary,
    Sampling, SearchRequest, Tier, Truncation, UpsertRequest,
};
use sha2::{Digest, Sha256};

type Outcome = Result<(), Box<dyn Error>>;

/// `EMBERCACHE_TEST_EXPECTED` names a file of lines `ENCODING SHA256 TEXT`; the digest is of the
/// decoded vector as float32 in little-endian order.
#[tokio::test]
#[ignore = "needs a sidecar"]
async fn every_encoding_is_decoded_to_the_bits_that_are_expected() -> Outcome {
    let embercache = Embercache::connect(None)?;
    let path = env::var("EMBERCACHE_TEST_EXPECTED").map_err(|_| "make test-clients sets it")?;
    let expected = fs::read_to_string(path)?;
    let mut encodings = HashSet::new();
    for line in expected.lines() {
        let [encoding, digest, text] = line.splitn(3, ' ').collect::<Vec<_>>()[..] else {
            return Err(format!("{line:?} is not ENCODING SHA256 TEXT").into());
        };
        let known = Encoding::from_str_name(encoding).ok_or("unknown encoding")?;
        let request = EmbedRequest {
            inputs: embercache::texts([text]),
            encoding: known.into(),
            ..Default::default()
        };
        let response = embercache.embed().embed(request).await?.into_inner();
        let vector = embercache::vectors(&response).next().ok_or("no vector")??;
        let bytes: Vec<u8> = vector.iter().flat_map(|it| it.to_le_bytes()).collect();
        let read: String = Sha256::digest(bytes)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(read, digest, "{encoding} of {text:?}");
        encodings.insert(known);
    }
    assert_eq!(encodings.len(), 3);
    Ok(())
}

#[tokio::test]
#[ignore = "needs a sidecar"]
async fn an_input_that_fails_does_not_spoil_the_others() -> Outcome {
    let embercache = Embercache::connect(None)?;
    let mut request = Request::new(EmbedRequest {
        inputs: embercache::texts(["a text".to_owned(), "long ".repeat(3000)]),
        truncation: Truncation::Error.into(),
        ..Default::default()
    });
    request.set_timeout(Duration::from_secs(10));
    request.extensions_mut().insert(embercache::WaitForReady);
    let response = embercache.embed().embed(request).await?.into_inner();
    let mut known = Vec::new();
    for vector in embercache::vectors(&response) {
        match vector {
            Ok(vector) => known.push(vector),
            Err(error) => eprintln!("{error} ({:?})", error.code),
        }
    }
    assert_eq!(known.len(), 1);
    let failed = embercache::vectors(&response).nth(1).ok_or("too few")?;
    assert_eq!(failed.unwrap_err().code, Code::InvalidArgument);
    Ok(())
}

#[tokio::test]
#[ignore = "needs a sidecar"]
async fn documents_are_found_by_meaning_and_the_answer_is_cached() -> Outcome {
    let embercache = Embercache::connect(None)?;
    let mut documents = embercache.search();
    documents
        .upsert(UpsertRequest {
            collection: "rust".to_owned(),
            documents: vec![
                document("coal", "An ember is a piece of glowing coal."),
                document("cache", "A cache keeps answers for later."),
            ],
            ..Default::default()
        })
        .await?;
    let request = SearchRequest {
        query: Some(Query::Text("what glows?".to_owned())),
        collection: "rust".to_owned(),
        top_k: 1,
        ..Default::default()
    };
    let found = documents.search(request.clone()).await?.into_inner();
    for result in &found.results {
        println!("{} {} {}", result.score, result.id, result.content);
    }
    assert_eq!(found.results[0].id, "coal");
    assert_eq!(found.tier(), Tier::Computed);
    let again = documents.search(request.clone()).await?.into_inner();
    assert_eq!(again.tier(), Tier::Hot);
    documents
        .delete(DeleteRequest {
            collection: "rust".to_owned(),
            ids: vec!["coal".to_owned(), "cache".to_owned()],
            ..Default::default()
        })
        .await?;
    let empty = documents.search(request).await?.into_inner();
    assert!(empty.results.is_empty());
    Ok(())
}

#[tokio::test]
#[ignore = "needs a sidecar"]
async fn a_text_comes_in_pieces_that_end_with_a_summary_and_is_cached_whole() -> Outcome {
    let embercache = Embercache::connect(None)?;
    let first = stream(&embercache).await?;
    assert_eq!(first.usage.unwrap_or_default().completion_tokens, 8);
    assert_eq!(stream(&embercache).await?.tier(), Tier::Hot);
    Ok(())
}

// It needs none: no file is there.
#[tokio::test]
async fn the_program_of_the_guide_says_which_file_it_lacks() {
    let connect = || {
        let files = embercache::Files {
            token: Some(PathBuf::from("/run/secrets/embercache/token")),
            ca: Some(PathBuf::from("/run/secrets/embercache/ca.crt")),
            ..Default::default()
        };
        Embercache::connect_with(Some("tls://sidecar.example:50551"), files)
    };
    let message = connect().unwrap_err().to_string();
    let expected = "the token file /run/secrets/embercache/token cannot be read";
    assert!(message.starts_with(expected), "{message}");
}

async fn stream(embercache: &Embercache) -> Result<GenerateSummary, Box<dyn Error>> {
    let request = GenerateRequest {
        prompt: Some(Prompt::Text("Embers glow because".to_owned())),
        sampling: Some(Sampling {
            max_tokens: Some(8),
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut pieces = embercache
        .generate()
        .generate_stream(request)
        .await?
        .into_inner();
    let mut summary = None;
    while let Some(piece) = pieces.message().await? {
        print!("{}", piece.text);
        summary = piece.summary; // in the last message
    }
    summary.ok_or_else(|| "the answer was cut short".into())
}

fn document(id: &str, content: &str) -> Document {
    Document {
        id: id.to_owned(),
        chunks: vec![Chunk {
            content: content.to_owned(),
            ..Default::default()
        }],
        ..Default::default()
    }
}
