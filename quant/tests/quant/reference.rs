//! The reference decode against what the PyPI package `gguf` computed (`data/generate.py`), bit by bit.

use moelten_quant::{Format, decode};

/// A reader over a fixture.
struct Fixture(&'static [u8]);

impl Fixture {
    fn take(&mut self, n: usize) -> &'static [u8] {
        let (head, tail) = self.0.split_at(n);
        self.0 = tail;
        head
    }

    fn count(&mut self) -> usize {
        u32::from_le_bytes(self.take(4).try_into().unwrap()) as usize
    }
}

fn fnv1a(format: Format, values: &[f32]) -> u64 {
    // The sign of a NaN that is made here, as infinity times zero, is the processor's own choice; the package
    // ran on x86.
    let made = format == Format::Nvfp4F32 && cfg!(not(target_arch = "x86_64"));
    let of_x86 = |value: f32| if made && value.is_nan() { f32::from_bits(0xffc0_0000) } else { value };
    values
        .iter()
        .flat_map(|&v| of_x86(v).to_le_bytes())
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

#[test]
fn every_format_decodes_to_the_bits_of_the_gguf_package() {
    let mut fixture = Fixture(include_bytes!("../data/decode.bin"));
    for format in Format::ALL {
        let name = std::str::from_utf8(fixture.take(8)).unwrap().trim_end_matches('\0');
        assert_eq!(Format::from_name(name), Some(format));
        let count = fixture.count();
        assert!(count >= 40);
        let blocks = fixture.take(count * format.block_bytes());
        let mut weights = vec![0.0; format.block_len()];
        for (i, block) in blocks.chunks(format.block_bytes()).enumerate() {
            decode(format, block, &mut weights);
            let expected = u64::from_le_bytes(fixture.take(8).try_into().unwrap());
            assert_eq!(fnv1a(format, &weights), expected, "{format} block {i}: {weights:?}");
        }
        let mut all = vec![0.0; count * format.block_len()];
        decode(format, blocks, &mut all);
        assert!(
            all[all.len() - weights.len()..]
                .iter()
                .map(|w| w.to_bits())
                .eq(weights.iter().map(|w| w.to_bits()))
        );
    }
    assert!(fixture.0.is_empty());
}

#[test]
#[should_panic(expected = "do not match")]
fn decode_refuses_lengths_that_disagree() {
    decode(Format::Q4_0, &[0; 18], &mut [0.0; 64]);
}
