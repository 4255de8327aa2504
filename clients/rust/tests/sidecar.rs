//! Against the real sidecar at `EMBERCACHE_ADDRESS`, with the models minilm and smollm2-135m:
//! `cargo test --test sidecar -- --ignored`.

use std::error::Error;
use std::time::Duration;

use embercache::Embercache;
use embercache::tonic::{Code, Request};
use embercache::v1::generate_request::Prompt;
use embercache::v1::search_request::Query;
use embercache::v1::{
    Chunk, DeleteRequest, Document, EmbedRequest, Encoding, GenerateRequest, GenerateSummary,
    Sampling, SearchRequest, Tier, Truncation, UpsertRequest,
};

type Outcome = Result<(), Box<dyn Error>>;

#[tokio::test]
#[ignore = "needs a sidecar"]
async fn a_smaller_encoding_is_near_the_vector_in_full() -> Outcome {
    let embercache = Embercache::connect(None)?;
    let mut vectors = Vec::new();
    for encoding in [Encoding::Float32, Encoding::Float16, Encoding::Int8] {
        let request = EmbedRequest {
            inputs: embercache::texts(["a text"]),
            encoding: encoding.into(),
            ..Default::default()
        };
        let response = embercache.embed().embed(request).await?.into_inner();
        vectors.extend(embercache::vectors(&response).collect::<Result<Vec<_>, _>>()?);
    }
    for small in &vectors[1..] {
        assert_eq!(small.len(), vectors[0].len());
        for (element, full) in small.iter().zip(&vectors[0]) {
            assert!((element - full).abs() < 0.002, "{element} is not {full}");
        }
    }
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
