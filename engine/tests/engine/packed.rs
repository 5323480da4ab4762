//! Packed files: records give the same bits as banks on every instruction set, and unpacking gives the
//! original tensors.

use std::path::{Path, PathBuf};

use crate::common::wide::{converted, wide};
use crate::common::{How, folder, golden, logits, model, pack, session, unpack};
use moelten_engine::KvFormat;
use moelten_engine::plan::{Io, Ram};
use moelten_loader::container::gguf::Gguf;
use moelten_loader::container::packed;
use moelten_loader::convert::verify::verify;
use moelten_loader::convert::{Conversion, FileLayout, Types};
use moelten_loader::load::{LoadedModel, Source, load};
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
            for &part in bank.parts() {
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

/// Files of models whose experts are not of three matrices, or are query heads.
fn other_files(dir: &Path) -> Vec<(&'static str, PathBuf)> {
    let families = [
        // Attention experts beside experts of two matrices.
        ("dsmoe", &[Format::F32, Format::F16][..]),
        ("glam", &[Format::BF16]),
        // Of two matrices, in a latent space.
        ("nemotronh", &[Format::F16]),
    ];
    let write = |(family, formats): (&'static str, &[Format])| {
        let target = dir.join(format!("{family}.gguf"));
        converted(&folder(family), formats, &target);
        (family, target)
    };
    families.into_iter().map(write).collect()
}

#[test]
fn experts_of_every_kind_are_records() {
    let dir = tempfile::tempdir().unwrap();
    for (family, standard) in other_files(dir.path()) {
        let (packed, back) = (standard.with_extension("packed"), standard.with_extension("back"));
        pack(&standard, &packed);
        let loaded = load(&packed).unwrap();
        assert_eq!(loaded.notices, [""; 0], "{family}");
        check_records(&loaded, &load(&standard).unwrap());
        let Source::Gguf { metadata, .. } = &loaded.source else { panic!("a file") };
        assert_eq!(packed::version(metadata), Some(u64::from(packed::VERSION_OF_ANY)), "{family}");
        let ids = golden(family).ids;
        for isa in Isa::available() {
            let options = |ram, io, threads| How {
                threads: Some(threads),
                isa: Some(isa),
                ram,
                io,
                ..Default::default()
            };
            let expected = bits(&standard, &ids, options(Ram::Auto, Io::Auto, 1));
            for (ram, io, threads) in [
                (Ram::Auto, Io::Auto, 2),
                (Ram::Auto, Io::Direct, 2),
                (Ram::Min, Io::Direct, 1),
                (Ram::Min, Io::Mmap, 3),
            ] {
                let got = bits(&packed, &ids, options(ram, io, threads));
                assert!(got == expected, "{family} on {isa}, {ram:?}, {io:?}, {threads} threads");
            }
        }
        unpack(&packed, &back);
        assert!(std::fs::read(&standard).unwrap() == std::fs::read(&back).unwrap(), "{family}");
        let again = standard.with_extension("again");
        pack(&packed, &again);
        assert!(std::fs::read(&packed).unwrap() == std::fs::read(&again).unwrap(), "{family}");
        let report = verify(&loaded, Some(&load(&folder(family)).unwrap()), 2, &mut |_, _| true);
        let report = report.unwrap().unwrap();
        assert!(report.damage.is_empty() && report.checked > 0, "{family}: {:?}", report.damage);
    }
}

/// A damaged record is found, whatever its experts are for.
#[test]
fn damaged_records_of_every_kind_are_found() {
    let dir = tempfile::tempdir().unwrap();
    for (family, standard) in other_files(dir.path()) {
        let packed = standard.with_extension("packed");
        pack(&standard, &packed);
        let sound = std::fs::read(&packed).unwrap();
        for bank in load(&packed).unwrap().tensors.banks() {
            let record = bank.record(bank.experts() - 1).unwrap();
            let mut bytes = sound.clone();
            bytes[usize::try_from(record.offset + 1).unwrap()] ^= 0x10;
            std::fs::write(&packed, &bytes).unwrap();
            let report = verify(&load(&packed).unwrap(), None, 2, &mut |_, _| true).unwrap().unwrap();
            assert_eq!(report.damage.len(), 1, "{family} {:?}: {:?}", bank.key, report.damage);
            let loaded = load(&packed).unwrap();
            let plan = Conversion::plan_as(&loaded, FileLayout::Standard, Types::Kept).unwrap();
            let error = plan.write(&standard, &mut |_| true).unwrap_err();
            assert!(error.to_string().contains("checksum"), "{family}: {error}");
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
