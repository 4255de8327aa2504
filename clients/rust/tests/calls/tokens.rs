//! What calls show of themselves. Real TLS sidecars are called by `make test-clients`.

use std::{env, fs, process};

use crate::scripted::{Scripted, Step};
use embercache::tonic::Code;
use embercache::v1::{EmbedRequest, GenerateRequest};
use embercache::{Embercache, Files};

fn token(name: &str) -> Files {
    let file = env::temp_dir().join(format!("embercache-{}-{name}", process::id()));
    fs::write(&file, "a-token\n").unwrap();
    Files {
        token: Some(file),
        ..Default::default()
    }
}

#[tokio::test]
async fn every_attempt_of_every_call_carries_the_token() {
    let script = [
        Step::Refuse(Code::Unavailable),
        Step::Answer(1),
        Step::BreakOff(Code::Ok),
        Step::BreakOff(Code::Ok),
    ];
    let socket = env::temp_dir().join(format!("embercache-{}-tokens.sock", process::id()));
    let files = token("carried");
    for server in [
        Scripted::serve(script).await,
        Scripted::serve_at(&socket, script),
    ] {
        let embercache = Embercache::connect_with(Some(&server.address), files.clone()).unwrap();
        let (mut embed, mut generate) = (embercache.embed(), embercache.generate());
        embed.embed(EmbedRequest::default()).await.unwrap();
        let request = GenerateRequest::default();
        generate.generate_stream(request).await.unwrap();
        embed.embed_stream(tokio_stream::empty()).await.unwrap();
        assert_eq!(server.headers("authorization"), ["Bearer a-token"; 4]);
    }
    fs::remove_file(socket).unwrap();
    fs::remove_file(files.token.unwrap()).unwrap();
}

#[tokio::test]
async fn without_a_token_calls_carry_none() {
    let server = Scripted::serve([Step::Answer(1)]).await;
    let embercache = Embercache::connect(Some(&server.address)).unwrap();
    let answer = embercache.embed().embed(EmbedRequest::default()).await;
    assert!(answer.is_ok());
    assert!(server.headers("authorization").is_empty());
}
