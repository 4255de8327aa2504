//! Embeds the texts of its arguments and prints, for each, what answered (run it twice: the second
//! time it is the cache), a digest of the vector and its beginning.
//!
//! `EMBERCACHE_ADDRESS` says where the sidecar is, if not at 127.0.0.1:50551.

use std::env;
use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use embercache::{Embercache, tonic, v1::EmbedRequest};
use sha2::{Digest, Sha256};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match embed(env::args().skip(1)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("embed: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn embed(texts: impl Iterator<Item = String>) -> Result<(), Box<dyn Error>> {
    let embercache = Embercache::connect(None)?;
    let mut request = tonic::Request::new(EmbedRequest {
        inputs: embercache::texts(texts),
        ..Default::default()
    });
    request.set_timeout(Duration::from_secs(10));
    let response = embercache.embed().embed(request).await?.into_inner();
    let vectors = embercache::vectors(&response).collect::<Result<Vec<_>, _>>()?;
    for (embedding, vector) in response.embeddings.iter().zip(vectors) {
        let tier = embedding.tier().as_str_name().trim_start_matches("TIER_");
        let digest = hexadecimal(&Sha256::digest(&embedding.vector));
        let start: Vec<String> = vector.iter().take(3).map(|x| format!("{x:.6}")).collect();
        println!("{} {digest} {}", tier.to_lowercase(), start.join(" "));
    }
    Ok(())
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
