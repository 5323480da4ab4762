//! Keys and values of a whole text that every token sees: of the text that an encoder has read, for the
//! attention of its decoder. They are made at once and stay as they are while the decoder writes, so only the
//! text's length is kept beside them; tokens of the decoder are counted and leave nothing. It must not know
//! how attention reads them.

use std::io::{self, Read, Write};

use moelten_loader::spec::AttentionSpec;
use moelten_quant::Kernels;

use super::appended::{Appended, Extent};
use super::contract::BranchState;
use super::kv::KvView;
use super::kv::format::KvFormat;
use super::kv::layer::KvLayer;
use crate::runtime::pool::Pool;

/// Keys and values of a text, of one layer.
pub struct EncodedState {
    layer: KvLayer,
    /// Tokens of the text.
    text: usize,
    /// Tokens that a text may have.
    capacity: usize,
    /// Tokens of the decoder.
    extent: Extent,
}

impl EncodedState {
    /// A state without a text, for texts of up to `capacity` tokens.
    ///
    /// # Errors
    /// When the system has no address space left.
    pub fn new(spec: &AttentionSpec, capacity: usize, format: KvFormat, delay: usize) -> io::Result<Self> {
        let layer = KvLayer::new(spec, capacity, format, delay)?;
        Ok(Self { layer, text: 0, capacity, extent: Extent::default() })
    }

    /// A text of `tokens` tokens replaces the one before. All of its tokens must be written next.
    pub fn begin_text(&mut self, tokens: usize) {
        assert!(tokens <= self.capacity, "the length of a text is checked before it is read");
        self.text = tokens;
    }

    /// Writes keys and values (`[tokens, kv_heads, head_dim]` each) of tokens of the text.
    pub fn write(&mut self, pool: &Pool, kernels: &Kernels, first: usize, keys: &[f32], values: &[f32]) {
        self.layer.write(pool, kernels, first, keys, values);
    }

    /// Tokens of the decoder are as many as those of `other`, which has the same text.
    pub fn follow(&mut self, other: &Self) {
        self.extent.grow_to(other.len());
    }

    /// What attention reads.
    pub fn view(&self) -> KvView<'_> {
        KvView { layer: &self.layer, base: 0, whole: Some(self.text) }
    }
}

/// Tokens are those of the decoder: to forget them keeps the encoder's text.
impl Appended for EncodedState {
    fn extent(&self) -> &Extent {
        &self.extent
    }

    fn extent_mut(&mut self) -> &mut Extent {
        &mut self.extent
    }

    fn room(&self) -> Option<usize> {
        None
    }

    fn save_first(&self, _: usize, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&(self.text as u64).to_le_bytes())?;
        self.layer.save(0..self.text, out)
    }

    fn load_first(&mut self, _: usize, from: &mut dyn Read) -> io::Result<()> {
        self.text = 0;
        let mut text = [0; 8];
        from.read_exact(&mut text)?;
        let text = usize::try_from(u64::from_le_bytes(text)).unwrap_or(usize::MAX);
        if text > self.capacity {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.layer.load(0..text, from)?;
        self.text = text;
        Ok(())
    }
}
