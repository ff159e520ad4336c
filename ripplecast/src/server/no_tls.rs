//! Stands in for `tls.rs` without the feature `tls`: a certificate can be set, but not loaded.

use std::{convert::Infallible, io, path::PathBuf};

use tokio::net::TcpStream;

use super::goodbyes::Goodbye;
use crate::{Error, Result};

/// The path of a certificate or a key.
#[derive(Clone, Debug)]
pub(crate) struct TlsFile {
    /// The setting that names the file.
    setting: &'static str,
    path: PathBuf,
}

impl TlsFile {
    pub(crate) fn new(setting: &'static str, path: impl Into<PathBuf>) -> Self {
        Self { setting, path: path.into() }
    }
}

/// The paths of a certificate and its key.
pub(crate) struct TlsFiles(TlsFile);

impl TlsFiles {
    pub(crate) fn new(cert: TlsFile, _key: TlsFile) -> Self {
        Self(cert)
    }
}

/// A loaded certificate, of which there is none.
#[derive(Clone, Debug)]
pub(crate) enum Tls {}

impl Tls {
    pub(crate) fn load(TlsFiles(TlsFile { setting, path }): TlsFiles) -> Result<Self> {
        Err(Error::setting(
            setting,
            path.display(),
            concat!(
                "TLS needs the feature `tls`: ripplecast = { version = \"",
                env!("CARGO_PKG_VERSION"),
                "\", features = [\"tls\"] }"
            ),
        ))
    }

    pub(super) async fn watch(&self) -> Infallible {
        match *self {}
    }

    pub(super) async fn accept(&self, _stream: TcpStream, _goodbye: Goodbye) -> io::Result<TcpStream> {
        match *self {}
    }
}
