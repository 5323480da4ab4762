//! Folders converted to GGUF: the F32 file computes what the folder computes, the Q8_0 file within the
//! rounding of its weights. The tests cover names, row order of Q and K, fused banks and metadata of every
//! family.

use std::path::{Path, PathBuf};

use crate::common::wide::{converted, wide};
use crate::common::{
    FAMILIES, NARROW, deviation, distance, folder, golden, rounding_bound, run, run_on, spread,
};
use moelten_loader::container::gguf::Gguf;
use moelten_loader::convert::Conversion;
use moelten_loader::load::load;
use moelten_quant::{Format, Isa, decode};

fn convert(family: &str, format: Format, dir: &Path) -> PathBuf {
    convert_from(&folder(family), family, format, dir)
}

fn convert_from(source: &Path, family: &str, format: Format, dir: &Path) -> PathBuf {
    let loaded = load(source).unwrap();
    let target = dir.join(format!("{family}-{format}.gguf"));
    let conversion = Conversion::plan(&loaded, &|_| format).unwrap();
    assert!(conversion.write(&target, &mut |_| true).unwrap());
    target
}

/// Rows of Q and K are permuted for families whose GGUF files pair neighbours, and Llama 3 divisors are
/// rounded to f32; nothing else may differ, so the bound is that of the goldens themselves.
#[test]
fn f32_files_match_the_goldens() {
    let dir = tempfile::tempdir().unwrap();
    for family in FAMILIES.into_iter().chain(NARROW) {
        let golden = golden(family);
        let file = convert(family, Format::F32, dir.path());
        let spec = load(&file).unwrap().spec;
        let source = load(&folder(family)).unwrap().spec;
        assert_eq!(spec.layers.len(), source.layers.len());
        assert_eq!(
            (spec.head, spec.embed_scale, spec.vocab),
            (source.head, source.embed_scale, source.vocab)
        );
        for (a, b) in spec.layers.iter().zip(&source.layers) {
            assert_eq!((a.mlp(), a.moe()), (b.mlp(), b.moe()), "{family}");
        }
        let (got, routes) = run(&file, &golden.ids);
        let error = distance(&got, &golden.logits) / spread(&golden.logits);
        println!("{family:15} F32 file: worst logit error {error:.1e} of the spread");
        assert!(error <= 1e-3, "{family}: {error}");
        assert_eq!(routes, golden.routes, "{family}");
    }
}

/// A written file has the tensors of the file that another program made of the same folder. Its numbers are
/// rounded to bfloat16.
#[test]
fn the_file_of_another_program_has_the_same_tensors() {
    let dir = tempfile::tempdir().unwrap();
    let written = load(&convert("nemotronh", Format::F32, dir.path())).unwrap();
    let catalog = written.tensors.catalog();
    let theirs = std::fs::read_to_string(folder("nemotronh").join("file.tsv")).unwrap();
    let rows: Vec<&str> = theirs.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(rows.len(), catalog.tensors().len());
    for row in rows {
        let [name, dims, sum, size] = row.split('\t').collect::<Vec<_>>()[..] else { panic!("{row}") };
        let tensor = catalog.get(name).unwrap_or_else(|| panic!("{name} is not written"));
        // Dimensions of one may be missing.
        let shape: Vec<u64> = tensor.shape.iter().copied().filter(|&size| size > 1).collect();
        let of_theirs: Vec<u64> =
            dims.split('x').map(|size| size.parse().unwrap()).filter(|&size| size > 1).collect();
        assert_eq!(shape, of_theirs, "{name}");
        let mut values = vec![0.0; usize::try_from(tensor.shape.iter().product::<u64>()).unwrap()];
        decode(tensor.storage.format().unwrap(), catalog.bytes(tensor), &mut values);
        // Scores without a rope do not depend on the order of rows.
        let rowless = name.ends_with("attn_q.weight") || name.ends_with("attn_k.weight");
        let round = if rowless { usize::try_from(shape[1]).unwrap() } else { usize::MAX };
        let weight = |at: usize| (1 + at % round % 97) as f64;
        let weighed = values.iter().enumerate().map(|(at, &value)| f64::from(value) * weight(at));
        let [sum, size]: [f64; 2] = [sum.parse().unwrap(), size.parse().unwrap()];
        let error = (weighed.sum::<f64>() - sum).abs();
        assert!(error <= size / 500.0, "{name}: {error} of {size}");
    }
}

/// llama.cpp refuses files without some keys, which say nothing new, and with a wrong one it computes
/// another norm.
#[test]
fn keys_are_those_that_other_readers_look_for() {
    let dir = tempfile::tempdir().unwrap();
    for (family, key, value) in [
        ("gemma4moe", "gemma4.embedding_length_per_layer_input", Some(0.0)),
        ("nemotronh", "nemotron_h_moe.attention.layer_norm_epsilon", Some(1e-5)),
        ("nemotronh", "nemotron_h_moe.attention.layer_norm_rms_epsilon", Some(1e-5)),
        ("phimoe", "phimoe.attention.layer_norm_rms_epsilon", Some(1e-5)),
        ("cohere2", "cohere2.attention.layer_norm_epsilon", Some(1e-5)),
        ("cohere2", "cohere2.attention.layer_norm_rms_epsilon", None),
        ("llama", "llama.attention.layer_norm_epsilon", None),
    ] {
        let file = convert(family, Format::F32, dir.path());
        let gguf = Gguf::open(&file).unwrap();
        let found = gguf.metadata.f32(key).or_else(|_| gguf.metadata.u64(key).map(|n| n.map(|n| n as f32)));
        assert_eq!(found.unwrap(), value, "{family}: {key}");
    }
}

/// Files are written anew from files: experts of two matrices, layers without attention, runs of tokens.
#[test]
fn files_are_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    for family in ["nemotronh", "llama4"] {
        let source = convert(family, Format::F32, dir.path());
        let (golden, again) = (golden(family), tempfile::tempdir().unwrap());
        let (got, routes) = run(&convert_from(&source, family, Format::F32, again.path()), &golden.ids);
        let error = distance(&got, &golden.logits) / spread(&golden.logits);
        assert!(error <= 1e-3, "{family}: {error}");
        assert_eq!(routes, golden.routes, "{family}");
    }
}

/// Compares with the goldens on every instruction set. Weights and activations are rounded.
#[test]
fn q8_0_files_stay_within_the_rounding_of_their_weights() {
    let dir = tempfile::tempdir().unwrap();
    for family in FAMILIES {
        let golden = golden(family);
        let file = convert(family, Format::Q8_0, dir.path());
        let bound = rounding_bound(&convert(family, Format::F32, dir.path()), &golden.ids, &golden.logits);
        for isa in Isa::available() {
            let got = deviation(&run_on(isa, &file, &golden.ids).0, &golden.logits);
            println!("{family:15} Q8_0 {isa:11}: rms logit error {got:.1e} of the spread, bound {bound:.1e}");
            assert!(got <= bound, "{family} on {isa}: {got} is above {bound}");
        }
    }
}

/// Kernels read every format correctly: a file and an F32 copy of its decoded weights differ by the rounding
/// of activations alone.
#[test]
fn quantised_files_compute_what_their_decoded_weights_do() {
    let dir = tempfile::tempdir().unwrap();
    let formats = [Format::Q8_0, Format::Q4_0, Format::Q5_1, Format::Iq4Nl, Format::Mxfp4];
    for (i, family) in FAMILIES.into_iter().enumerate() {
        let format = formats[i % formats.len()];
        check_decoded(family, &convert(family, format, dir.path()));
    }
    // Formats of super-blocks need wide models.
    for (family, format) in [("mixtral", Format::Q4K), ("olmoe", Format::Q6K), ("qwen2moe", Format::Q5K)] {
        let file = dir.path().join("wide.gguf");
        converted(&wide(family, dir.path()), &[format], &file);
        check_decoded(family, &file);
    }
}

fn check_decoded(family: &str, file: &Path) {
    let ids = golden(family).ids;
    let loaded = load(file).unwrap();
    let decoded = file.with_extension("decoded");
    assert!(Conversion::plan(&loaded, &|_| Format::F32).unwrap().write(&decoded, &mut |_| true).unwrap());
    let ((got, got_routes), (expected, routes)) = (run(file, &ids), run(&decoded, &ids));
    let (got, bound) = (deviation(&got, &expected), rounding_bound(&decoded, &ids, &expected));
    let file = file.file_name().unwrap().display();
    let choices = || got_routes.iter().zip(&routes).flat_map(|(a, b)| a.1.iter().zip(&b.1));
    let (others, all) = (choices().filter(|(a, b)| a != b).count(), choices().count());
    println!("{file}: {got:.1e} of the spread, bound {bound:.1e}; {others} of {all} experts are others");
    // An error of 0 would mean that activations were not rounded.
    assert!(0.0 < got && got <= bound, "{file}: {got} is above {bound}");
    // Routes may change where router logits are close, which is rare.
    assert!(others * 4 <= all, "{file}: {others} of {all} experts are others");
}
