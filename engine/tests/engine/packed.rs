//! Packed files: records give the same bits as banks on every instruction set, and unpacking gives the
//! original tensors.

use std::path::{Path, PathBuf};

use crate::common::wide::{converted, wide};
use crate::common::{How, folder, golden, logits, model, pack, session, unpack};
use moelten_engine::KvFormat;
use moelten_loader::container::gguf::Gguf;
use moelten_loader::container::packed;
use moelten_loader::convert::{Conversion, FileLayout, Types};
use moelten_loader::load::{LoadedModel, load};
use moelten_loader::spec::Part;
use moelten_quant::{Format, Isa};

fn bits(path: &Path, ids: &[u32], options: How) -> Vec<u32> {
    let model = model(path, options);
    let (logits, _) = logits(&mut session(&model, KvFormat::F32), ids);
    logits.iter().map(|logit| logit.to_bits()).collect()
}

/// Standard files of small models: the golden ones, and wide ones for formats of super-blocks.
fn standard_files(dir: &Path) -> Vec<(&'static str, PathBuf)> {
    let golden = [
        ("mixtral", &[Format::Q4_0][..]),
        ("qwen3moe", &[Format::Q8_0]),
        ("granitemoe", &[Format::Q5_1, Format::Q8_0, Format::F16]),
        ("qwen2moe", &[Format::BF16]),
        ("olmoe", &[Format::Mxfp4, Format::Iq4Nl]),
    ];
    let large = [("mixtral", &[Format::Q4K][..]), ("phimoe", &[Format::Q4K, Format::Q6K, Format::Q5K])];
    let mut files = Vec::new();
    for (family, formats) in golden {
        files.push((family, folder(family), formats));
    }
    for (family, formats) in large {
        files.push((family, wide(family, dir), formats));
    }
    let number = |(i, (family, source, formats)): (usize, (&'static str, PathBuf, &[Format]))| {
        let target = dir.join(format!("{i}-{family}.gguf"));
        converted(&source, formats, &target);
        (family, target)
    };
    files.into_iter().enumerate().map(number).collect()
}

/// Every expert has a sound record that holds the bytes of its matrices in the standard file.
fn check_records(loaded: &LoadedModel, standard: &LoadedModel) {
    for (packed_bank, bank) in loaded.tensors.banks().iter().zip(standard.tensors.banks()) {
        assert_eq!((packed_bank.key, packed_bank.experts()), (bank.key, bank.experts()));
        assert!(packed_bank.record(bank.experts()).is_none());
        for expert in 0..bank.experts() {
            let record = *packed_bank.record(expert).unwrap();
            let align = u64::from(packed::RECORD_ALIGN);
            assert!(record.offset.is_multiple_of(align) && record.bytes.is_multiple_of(align));
            let bytes = loaded.tensors.record_bytes(&record);
            assert!(packed::verify_record(bytes, record.checksum));
            for part in Part::ALL {
                let matrix = packed_bank.part(expert, part).unwrap();
                assert!(matrix.offset >= record.offset && matrix.file == record.file);
                assert!(matrix.offset + matrix.bytes <= record.offset + record.bytes);
                assert!(matrix.offset.is_multiple_of(64));
                let plain = bank.part(expert, part).unwrap();
                let [got, expected] =
                    [loaded.tensors.view(matrix), standard.tensors.view(plain)].map(|v| v.data());
                assert!(got == expected, "{:?}, expert {expert}: {part:?}", bank.key);
            }
        }
    }
}

#[test]
fn packed_files_compute_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    for (family, standard) in standard_files(dir.path()) {
        let packed = standard.with_extension("packed");
        pack(&standard, &packed);
        check_records(&load(&packed).unwrap(), &load(&standard).unwrap());
        let ids = golden(family).ids;
        for isa in Isa::available() {
            let options = |threads| How { threads: Some(threads), isa: Some(isa), ..Default::default() };
            let expected = bits(&standard, &ids, options(1));
            for threads in [1, 2] {
                let got = bits(&packed, &ids, options(threads));
                assert!(got == expected, "{family} on {isa}, {threads} threads");
            }
        }
    }
}

#[test]
fn unpacking_gives_the_same_file() {
    let dir = tempfile::tempdir().unwrap();
    for (family, standard) in standard_files(dir.path()) {
        let (packed, back) = (standard.with_extension("packed"), standard.with_extension("back"));
        pack(&standard, &packed);
        unpack(&packed, &back);
        let [old, new] = [&standard, &back].map(|path| Gguf::open(path).unwrap());
        for tensor in old.catalog.tensors() {
            let found = new.catalog.get(&tensor.name).unwrap();
            assert_eq!((found.storage, &found.shape), (tensor.storage, &tensor.shape), "{}", tensor.name);
            assert!(new.catalog.bytes(found) == old.catalog.bytes(tensor), "{family} {}", tensor.name);
        }
        // Files that moelten wrote are the same in every byte, metadata included.
        assert!(std::fs::read(&standard).unwrap() == std::fs::read(&back).unwrap(), "{family}");
        // Packing a packed file changes no byte.
        let again = standard.with_extension("again");
        pack(&packed, &again);
        assert!(std::fs::read(&packed).unwrap() == std::fs::read(&again).unwrap(), "{family}");
    }
}

#[test]
fn a_folder_is_packed_in_one_step() {
    let dir = tempfile::tempdir().unwrap();
    let loaded = load(&folder("qwen3moe")).unwrap();
    let (standard, packed, two) =
        (dir.path().join("s.gguf"), dir.path().join("p.gguf"), dir.path().join("t.gguf"));
    let types = Types::Chosen(&|_| Format::Q8_0);
    for (layout, target) in [(FileLayout::Standard, &standard), (FileLayout::Packed, &packed)] {
        assert!(Conversion::plan_as(&loaded, layout, types).unwrap().write(target, &mut |_| true).unwrap());
    }
    let ids = golden("qwen3moe").ids;
    let options = How::default;
    assert!(bits(&standard, &ids, options()) == bits(&packed, &ids, options()));
    let (direct, source) = (Gguf::open(&packed).unwrap(), Gguf::open(&standard).unwrap());
    assert_eq!(direct.metadata.get("general.file_type"), source.metadata.get("general.file_type"));
    // A packed file can be converted to other types too.
    let loaded = load(&packed).unwrap();
    let types = Types::Chosen(&|_| Format::F32);
    let plan = Conversion::plan_as(&loaded, FileLayout::Packed, types).unwrap();
    assert!(plan.write(&two, &mut |_| true).unwrap());
    assert_eq!(load(&two).unwrap().tensors.bank_of_layer(1).unwrap().expert(0)[0].format, Format::F32);
}
