//! Which Unix sockets can be connected to.

use std::env;

use crate::scripted::{Scripted, Step};
use embercache::Embercache;
use embercache::v1::EmbedRequest;

#[tokio::test]
async fn a_socket_may_have_any_name() {
    let folder = env::temp_dir().join(format!("embercache-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    env::set_current_dir(&folder).unwrap(); // no other test knows of it
    let table = include_str!("../../../testdata/addresses.txt").lines();
    let names: Vec<_> = table
        .filter_map(|line| line.strip_prefix("socket "))
        .collect();
    assert!(!names.is_empty());
    for name in names {
        let path = folder.join(name);
        let server = Scripted::serve_at(&path, [Step::Answer(1); 3]);
        for start in ["unix:", "unix://"] {
            embed(&format!("{start}{}", path.display())).await;
        }
        embed(&format!("unix:{name}")).await;
        assert_eq!(server.messages().len(), 3);
    }
    std::fs::remove_dir_all(folder).unwrap();
}

async fn embed(address: &str) {
    let embercache = Embercache::connect(Some(address)).unwrap();
    let answer = embercache.embed().embed(EmbedRequest::default()).await;
    assert!(answer.is_ok(), "{address}: {answer:?}");
}
