//! Paths that are no model: refused without blocking, with a word on what they are. B-numbers are the
//! project's list of bad inputs.
#![allow(clippy::unwrap_used, reason = "a failing helper of a test may panic")]

use std::path::Path;

use moelten_loader::container::gguf::Gguf;
use moelten_loader::container::open::{ModelFiles, open_model};
use moelten_loader::error::{ErrorKind, Fault, LoadError};

use crate::common::{Folder, GgufBytes, safetensors};
use crate::meter::{metered, refusal};

/// What the path is, according to the refusal.
fn not_a_model(path: &Path) -> String {
    match metered(|| open_model(path)) {
        Err(LoadError::NotAModel { found, .. }) => found,
        other => panic!("{path:?}: {other:?}"),
    }
}

#[test]
fn b81_folders() {
    let folder = Folder::new();
    assert_eq!(not_a_model(folder.path()), "a folder without a model");
    folder.file("pytorch_model.bin", b"PK\x03\x04");
    assert_eq!(not_a_model(folder.path()), "a folder with a PyTorch checkpoint");
    folder.file("one.gguf", GgufBytes::sound().build());
    assert!(matches!(open_model(folder.path()), Ok(ModelFiles::Gguf(_))));
    folder.file("two.gguf", GgufBytes::sound().build());
    assert_eq!(not_a_model(folder.path()), "a folder with 2 GGUF models");
    assert!(matches!(Gguf::open(folder.path()), Err(LoadError::NotAModel { .. })));
}

#[test]
fn b81_half_a_folder() {
    let folder = Folder::new();
    folder.file("config.json", "{}");
    let missing = refusal(|| open_model(folder.path()));
    assert!(missing.field == "model.safetensors" && matches!(missing.fault, Fault::Missing { .. }));
    let folder = Folder::new();
    let weights = folder.file("model.safetensors", safetensors(b"{}", 0));
    let missing = refusal(|| open_model(folder.path()));
    assert!(missing.field == "config.json" && matches!(missing.fault, Fault::Missing { .. }));
    assert!(not_a_model(&weights).contains("without config.json"));
    folder.file("config.json", "{}");
    assert!(matches!(open_model(&weights), Ok(ModelFiles::Hf(_))));
    for other in ["notes.json", "adapter.safetensors"] {
        assert_eq!(
            not_a_model(&folder.file(other, safetensors(b"{}", 0))),
            "a file with a name that models do not use"
        );
    }
}

#[test]
#[cfg(unix)]
fn b81_pipes_sockets_and_devices() {
    let folder = Folder::new();
    assert_eq!(not_a_model(Path::new("/dev/zero")), "a device");
    assert_eq!(not_a_model(Path::new("/dev/null")), "a device");
    let socket = folder.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    assert_eq!(not_a_model(&socket), "a socket");
    let pipe = folder.path().join("pipe");
    if std::process::Command::new("mkfifo").arg(&pipe).status().is_ok_and(|s| s.success()) {
        // Opening a pipe without a writer would block for ever.
        assert_eq!(not_a_model(&pipe), "a pipe");
        assert!(matches!(metered(|| Gguf::open(&pipe)), Err(LoadError::NotAModel { .. })));
    } else {
        moelten_testing::skip!("mkfifo is not installed");
    }
}

#[test]
fn missing_file_is_an_error_of_the_system() {
    let error = metered(|| open_model(Path::new("no/such/model.gguf"))).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.to_string().starts_with("no/such/model.gguf: cannot open the model: "), "{error}");
}

/// Root may read everything: runs the test again without that right.
#[cfg(unix)]
fn without_rights(test: &str) {
    const AGAIN: &str = "MOELTEN_WITHOUT_RIGHTS";
    assert!(std::env::var_os(AGAIN).is_none(), "the rights were not taken away");
    let mut command = std::process::Command::new("setpriv");
    command.arg("--bounding-set=-dac_override,-dac_read_search").arg(std::env::current_exe().unwrap());
    let Ok(output) = command.args(["--exact", test]).env(AGAIN, "1").output() else {
        moelten_testing::skip!("this user may read everything, and setpriv is not installed");
    };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{output:?}");
}

#[test]
#[cfg(unix)]
fn b82_no_permission() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    let path = folder.file("model.gguf", GgufBytes::sound().build());
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
    if std::fs::File::open(&path).is_ok() {
        return without_rights("bad_paths::b82_no_permission");
    }
    match metered(|| open_model(&path)) {
        Err(LoadError::Io { source, .. }) => assert_eq!(source.kind(), std::io::ErrorKind::PermissionDenied),
        other => panic!("{other:?}"),
    }
}

#[test]
#[cfg(target_os = "linux")]
fn b83_path_that_is_not_utf8() {
    use std::os::unix::ffi::OsStrExt;
    let folder = Folder::new();
    let path = folder.path().join(std::ffi::OsStr::from_bytes(b"m\xff.gguf"));
    let error = metered(|| open_model(&path)).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.to_string().contains("m\u{fffd}.gguf"));
    std::fs::write(&path, GgufBytes::sound().build()).unwrap();
    assert!(matches!(open_model(&path), Ok(ModelFiles::Gguf(_))));
}
