//! safetensors headers, shard indices and plain JSON: any bytes are parsed or refused; what is parsed covers
//! the file exactly, and no shard leaves the folder.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use moelten_loader::container::hf_folder::ShardIndex;
use moelten_loader::container::safetensors::parse_header;
use moelten_loader::io::json;

/// Bytes of values behind a header that the fuzzer only gives as text.
const DATA: usize = 64;

fuzz_target!(|bytes: &[u8]| {
    header(bytes);
    // With the length before it right, mutations reach the JSON.
    let mut whole = (bytes.len() as u64).to_le_bytes().to_vec();
    whole.extend(bytes);
    whole.resize(whole.len() + DATA, 0);
    header(&whole);

    if let Ok(index) = ShardIndex::parse(Path::new("f"), bytes) {
        assert!(index.shards().iter().all(|name| !name.contains(['/', '\\', '\0', ':'])));
    }
    let _any = json::parse::<serde_json::Value>(Path::new("f"), bytes, 4 << 20);
});

fn header(bytes: &[u8]) {
    match parse_header(Path::new("f"), bytes) {
        Ok(tensors) => {
            let covered: u64 = tensors.iter().map(|t| t.bytes).sum();
            let starts_at = 8 + u64::from_le_bytes(*bytes.first_chunk().expect("it was parsed"));
            assert_eq!(starts_at + covered, bytes.len() as u64);
            assert!(tensors.iter().all(|t| t.offset >= starts_at));
        }
        Err(error) => assert!(!error.to_string().chars().any(char::is_control), "{error:?}"),
    }
}
