//! Files read whole, without being held up by what is none: a named pipe nobody writes to would stop the start, and
//! later the thread that reads certificates again; a device would fill the memory.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::limits::TLS_FILE_LEN_MAX;

/// What a file holds.
///
/// # Errors
/// It cannot be read, it is something else than a file, or it is longer than [`TLS_FILE_LEN_MAX`].
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    // What is opened is what is looked at: the path may lead elsewhere a moment later.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_dir() {
        return Err(io::Error::from(io::ErrorKind::IsADirectory));
    }
    if !kind.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut text = Vec::new();
    file.take(TLS_FILE_LEN_MAX + 1).read_to_end(&mut text)?;
    if text.len() as u64 > TLS_FILE_LEN_MAX {
        return Err(io::Error::other(format!("it is longer than {} MiB", TLS_FILE_LEN_MAX / 1024 / 1024)));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn what_is_no_file_is_told_and_waits_for_nobody() {
        let folder = std::env::temp_dir().join(format!("hawser-file-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("some");
        std::fs::write(&path, "text").unwrap();
        assert_eq!(read(&path).unwrap(), b"text");
        assert_eq!(read(&folder).unwrap_err().kind(), io::ErrorKind::IsADirectory);
        assert_eq!(read(&folder.join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(read(Path::new("/dev/zero")).unwrap_err().to_string(), "it is no regular file");
        let pipe = folder.join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert_eq!(read(&pipe).unwrap_err().to_string(), "it is no regular file");
        // At the bound and one past it, without a byte on the disk.
        let long = File::create(&path).unwrap();
        long.set_len(TLS_FILE_LEN_MAX).unwrap();
        assert_eq!(read(&path).unwrap().len() as u64, TLS_FILE_LEN_MAX);
        long.set_len(TLS_FILE_LEN_MAX + 1).unwrap();
        assert_eq!(read(&path).unwrap_err().to_string(), "it is longer than 64 MiB");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
