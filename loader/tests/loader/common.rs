//! Builders of container files, byte by byte, so that tests can make them lie.

use std::path::{Path, PathBuf};

/// A GGUF file under construction. Counts are right unless overridden.
#[derive(Clone)]
pub struct GgufBytes {
    pub magic: [u8; 4],
    pub version: u32,
    pub n_tensors: Option<u64>,
    pub n_kv: Option<u64>,
    pub alignment: usize,
    kvs: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
    data: Vec<u8>,
}

/// A length and the bytes.
pub fn string(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes()[..], bytes].concat()
}

impl GgufBytes {
    /// Version 3, alignment 32, nothing in it.
    pub fn new() -> Self {
        let (kvs, tensors, data) = (Vec::new(), Vec::new(), Vec::new());
        Self { magic: *b"GGUF", version: 3, n_tensors: None, n_kv: None, alignment: 32, kvs, tensors, data }
    }

    /// A file with metadata of several types and two tensors: `a` F32 `[2, 4]`, `b` Q8_0 `[1, 32]`.
    pub fn sound() -> Self {
        Self::new()
            .text("general.architecture", "llama")
            .kv(b"llama.block_count", 4, &2_u32.to_le_bytes())
            .kv(b"tokenizer.ggml.tokens", 9, &Self::texts(&["a", "b"]))
            .tensor("a", &[4, 2], 0, 0)
            .tensor("b", &[32, 1], 8, 32)
            .data(&[1; 32 + 34])
    }

    /// The payload of an array of texts.
    pub fn texts(texts: &[&str]) -> Vec<u8> {
        let mut payload = Self::array(8, texts.len() as u64, &[]);
        texts.iter().for_each(|text| payload.extend(string(text.as_bytes())));
        payload
    }

    /// The payload of an array: element type, count as claimed, elements.
    pub fn array(kind: u32, count: u64, elements: &[u8]) -> Vec<u8> {
        [&kind.to_le_bytes()[..], &count.to_le_bytes(), elements].concat()
    }

    /// Adds a key with a value of any type and payload.
    pub fn kv(mut self, key: &[u8], kind: u32, payload: &[u8]) -> Self {
        self.kvs.push([&string(key)[..], &kind.to_le_bytes(), payload].concat());
        self
    }

    /// Adds bytes where a key-value pair is expected.
    pub fn raw_kv(mut self, bytes: &[u8]) -> Self {
        self.kvs.push(bytes.to_vec());
        self
    }

    /// Adds a key with a text.
    pub fn text(self, key: &str, text: &str) -> Self {
        self.kv(key.as_bytes(), 8, &string(text.as_bytes()))
    }

    /// Adds a tensor record; `ne` is innermost first, as in the file.
    pub fn tensor(self, name: &str, ne: &[u64], kind: u32, offset: u64) -> Self {
        self.raw_tensor(name.as_bytes(), ne.len() as u32, ne, kind, offset)
    }

    /// Adds a tensor record whose number of dimensions may lie.
    pub fn raw_tensor(mut self, name: &[u8], n_dims: u32, ne: &[u64], kind: u32, offset: u64) -> Self {
        let mut record = string(name);
        record.extend(n_dims.to_le_bytes());
        ne.iter().for_each(|dim| record.extend(dim.to_le_bytes()));
        record.extend(kind.to_le_bytes());
        record.extend(offset.to_le_bytes());
        self.tensors.push(record);
        self
    }

    /// Adds bytes to the data section.
    pub fn data(mut self, bytes: &[u8]) -> Self {
        self.data.extend(bytes);
        self
    }

    /// The file.
    pub fn build(&self) -> Vec<u8> {
        let mut bytes = self.magic.to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(self.n_tensors.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        bytes.extend(self.n_kv.unwrap_or(self.kvs.len() as u64).to_le_bytes());
        self.kvs.iter().chain(&self.tensors).for_each(|part| bytes.extend(part));
        if !self.data.is_empty() {
            bytes.resize(bytes.len().next_multiple_of(self.alignment), 0);
            bytes.extend(&self.data);
        }
        bytes
    }
}

/// A safetensors file: any header text, then `data_len` zeros.
pub fn safetensors(header: &[u8], data_len: usize) -> Vec<u8> {
    let mut bytes = string(header);
    bytes.resize(bytes.len() + data_len, 0);
    bytes
}

/// A folder that is deleted after the test.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file and gives its path.
    pub fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, bytes).expect("a writable temporary folder");
        path
    }

    /// Writes a Hugging Face folder with the given weights.
    pub fn hf(weights: &[u8]) -> Self {
        let folder = Self::new();
        folder.file("config.json", r#"{"model_type": "llama"}"#);
        folder.file("model.safetensors", weights);
        folder
    }
}
