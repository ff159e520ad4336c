//! TLS for the accept loop: `https://` and `wss://` from a certificate and its key, reloaded when their files
//! change.
//!
//! A connection keeps the configuration that it started with, so a new certificate does not affect open
//! connections.

use std::{
    convert::Infallible,
    fs::File,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{MissedTickBehavior, interval},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, InconsistentKeys, ServerConfig,
        crypto::{CryptoProvider, ring},
        pki_types::{
            CertificateDer, PrivateKeyDer,
            pem::{PemObject as _, SectionKind},
        },
        server::NoServerSessionStorage,
        sign::{CertifiedKey, SingleCertAndKey},
        version::{TLS12, TLS13},
    },
    server::TlsStream,
};

use super::{goodbyes::Goodbye, pace::PacedSocket};
use crate::{Error, Result};

/// How often the files are checked. A check is two `stat` calls, and a certificate is renewed days before the
/// old one expires.
const CHECK_INTERVAL: Duration = Duration::from_secs(3);
/// Maximum file size in bytes. A chain has some 5 KiB; a path to something else must not fill the memory.
const MAX_FILE: u64 = 1 << 20;
/// The protocol inside TLS. To support WebSockets over HTTP/2 (RFC 8441), add `h2` in front, and let
/// `Connection::run_tls` select hyper's server by the negotiated protocol
/// (`ServerConnection::alpn_protocol`).
const ALPN: [&[u8]; 1] = [b"http/1.1"];

/// Paths of the certificate and its key, as set.
#[derive(Clone, Debug)]
pub(crate) struct TlsFiles {
    cert: TlsFile,
    key: TlsFile,
}

/// Path of one of the two files.
#[derive(Clone, Debug)]
pub(crate) struct TlsFile {
    /// The setting that names the file.
    setting: &'static str,
    path: PathBuf,
}

impl TlsFile {
    /// Creates the path from a setting.
    pub(crate) fn new(setting: &'static str, path: impl Into<PathBuf>) -> Self {
        Self { setting, path: path.into() }
    }

    /// Returns an error about the file.
    fn error(&self, reason: impl Into<String>) -> Error {
        Error::setting(self.setting, self.path.display(), reason)
    }

    /// Reads the file.
    fn read(&self) -> Result<Vec<u8>> {
        let mut content = Vec::new();
        let mut open = || {
            let file = File::open(&self.path)?;
            if !file.metadata()?.is_file() {
                return Err(io::Error::other("not a regular file"));
            }
            file.take(MAX_FILE + 1).read_to_end(&mut content)
        };
        match open() {
            Ok(read) if read as u64 > MAX_FILE => {
                Err(self.error(format!("not a certificate or key: it is longer than {MAX_FILE} bytes")))
            }
            Ok(_) => Ok(content),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(self.error("the file does not exist"))
            }
            Err(error) => Err(self.error(format!("can't read the file: {error}"))),
        }
    }

    /// Parses the PEM sections.
    fn sections(&self, content: &[u8]) -> Result<Vec<(SectionKind, Vec<u8>)>> {
        <(SectionKind, Vec<u8>)>::pem_slice_iter(content)
            .collect::<Result<_, _>>()
            .map_err(|_| self.error("not valid PEM: a section does not end, or is not base64"))
    }

    /// Returns the file's inode, length and times, which differ after a change; `None` if it can't be read.
    fn stamp(&self) -> Option<[i128; 4]> {
        const SECOND: i128 = 1_000_000_000;
        let meta = std::fs::metadata(&self.path).ok()?;
        let time = |seconds: i64, nanos: i64| i128::from(seconds) * SECOND + i128::from(nanos);
        Some([
            meta.ino().into(),
            meta.len().into(),
            time(meta.mtime(), meta.mtime_nsec()),
            time(meta.ctime(), meta.ctime_nsec()),
        ])
    }
}

impl TlsFiles {
    /// Creates the paths of a certificate and its key, which may be the same file.
    pub(crate) fn new(cert: TlsFile, key: TlsFile) -> Self {
        Self { cert, key }
    }

    /// Returns a value that differs after either file has changed.
    fn stamp(&self) -> Stamp {
        [self.cert.stamp(), self.key.stamp()]
    }

    /// Loads both files and checks that they match.
    fn load(&self) -> Result<Arc<ServerConfig>> {
        let provider = ring::default_provider();
        let certified = CertifiedKey::new(self.chain()?, self.signing_key(&provider)?);
        match certified.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(rustls::Error::InconsistentKeys(_)) => {
                let cert = self.cert.path.display();
                return Err(self.key.error(format!("it is not the key of the certificate in {cert}")));
            }
            Err(error) => return Err(self.cert.error(format!("its certificate can't be used: {error}"))),
        }
        let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(Error::other)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
        // Session tickets save returning clients the costly half of a handshake. The client stores the state,
        // so it needs no memory here. The ticket key is new with each certificate, so returning clients
        // receive the new certificate.
        config.ticketer = ring::Ticketer::new().map_err(Error::other)?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Arc::new(config))
    }

    /// Reads the certificate and its chain.
    fn chain(&self) -> Result<Vec<CertificateDer<'static>>> {
        let sections = self.cert.sections(&self.cert.read()?)?;
        let is_key = |(kind, _): &(SectionKind, Vec<u8>)| private_key(*kind, &[]).is_some();
        let holds_key = sections.iter().any(is_key);
        let certs = sections.into_iter().filter(|(kind, _)| *kind == SectionKind::Certificate);
        let chain: Vec<_> = certs.map(|(_, der)| CertificateDer::from(der)).collect();
        if chain.is_empty() {
            let reason = if holds_key {
                "it contains a key but no certificate; is it the other file?"
            } else {
                "it contains no certificate (-----BEGIN CERTIFICATE-----)"
            };
            return Err(self.cert.error(reason));
        }
        Ok(chain)
    }

    /// Reads the private key.
    fn signing_key(&self, provider: &CryptoProvider) -> Result<Arc<dyn rustls::sign::SigningKey>> {
        let content = self.key.read()?;
        let sections = self.key.sections(&content)?;
        let Some(key) = sections.iter().find_map(|(kind, der)| private_key(*kind, der)) else {
            let encrypted = content.windows(9).any(|text| text == b"ENCRYPTED");
            let reason = if encrypted {
                "its private key is encrypted; decrypt it with `openssl pkey`"
            } else {
                "it contains no private key (-----BEGIN PRIVATE KEY-----, or RSA or EC before PRIVATE)"
            };
            return Err(self.key.error(reason));
        };
        let load = provider.key_provider.load_private_key(key);
        load.map_err(|error| self.key.error(format!("its key can't be used: {error}")))
    }
}

/// Parses a private key in any of the three encodings; `None` for any other section.
fn private_key(kind: SectionKind, der: &[u8]) -> Option<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem(kind, der.to_vec())
}

/// See [`TlsFiles::stamp`].
type Stamp = [Option<[i128; 4]>; 2];

/// The certificate of an app that serves TLS, returned by [`App::tls`](crate::App::tls). Cheap to clone.
///
/// The files are checked every three seconds, so a renewed certificate needs no action. To load it without
/// waiting, call [`reload`](Self::reload).
#[derive(Clone)]
pub struct Tls(Arc<TlsState>);

struct TlsState {
    files: TlsFiles,
    /// The configuration of new connections.
    config: RwLock<Arc<ServerConfig>>,
    /// Locked while the files are read, so that an older version never replaces a newer one.
    seen: Mutex<Seen>,
}

/// The result of the last check.
struct Seen {
    stamp: Stamp,
    /// Whether the files could not be used. This is logged only if it is still so at the next check: after
    /// one file has been written and before the other has, they do not match.
    failed: bool,
}

impl Tls {
    /// Loads the files for the first time.
    pub(crate) fn load(files: TlsFiles) -> Result<Self> {
        let stamp = files.stamp(); // taken before the files are read, so that a change during the read is detected
        let config = RwLock::new(files.load()?);
        Ok(Self(Arc::new(TlsState { files, config, seen: Mutex::new(Seen { stamp, failed: false }) })))
    }

    /// Reloads the files now. New connections get the new certificate; open ones keep theirs.
    ///
    /// ```no_run
    /// # async fn example() -> ripplecast::Result<()> {
    /// use ripplecast::App;
    ///
    /// let app = App::builder().tls("cert.pem", "key.pem").build().await?;
    /// let tls = app.tls().expect("it was set above");
    /// tokio::spawn(app.run("0.0.0.0:443"));
    /// // ... later, when the files are known to have changed:
    /// tls.reload().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Setting`] when the files can't be used; the old certificate then stays in use.
    pub async fn reload(&self) -> Result<()> {
        let shared = self.0.clone();
        let loaded = tokio::task::spawn_blocking(move || shared.load_new(&mut shared.seen.lock()));
        loaded.await.map_err(Error::other)?
    }

    /// Checks the files every few seconds and reloads them when they have changed.
    pub(super) async fn watch(&self) -> Infallible {
        let mut ticks = interval(CHECK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let shared = self.0.clone();
            // A file may be on a slow network drive, which must not block the runtime.
            if let Err(error) = tokio::task::spawn_blocking(move || shared.reload_if_changed()).await {
                tracing::error!(%error, "can't check the certificate files");
            }
        }
    }

    /// Performs the server side of the handshake.
    pub(super) async fn accept(&self, stream: TcpStream, goodbye: Goodbye) -> io::Result<Stream> {
        let config = self.0.config.read().clone();
        let tls = TlsAcceptor::from(config).accept(stream).await?;
        Ok(Stream { tls, goodbye: Some(goodbye) })
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Tls").field(&self.0.files).finish()
    }
}

impl TlsState {
    /// Reloads the files if they have changed.
    fn reload_if_changed(&self) {
        let mut seen = self.seen.lock();
        let changed = self.files.stamp() != seen.stamp;
        if !changed && !seen.failed {
            return;
        }
        match self.load_new(&mut seen) {
            Ok(()) => {
                tracing::info!(cert = %self.files.cert.path.display(), "loaded the new certificate; new connections use it");
            }
            Err(_) if changed => seen.failed = true,
            Err(error) => {
                seen.failed = false;
                tracing::error!(%error, "can't use the new certificate; the old one stays in use");
            }
        }
    }

    /// Reloads the files, whether or not they have changed.
    fn load_new(&self, seen: &mut Seen) -> Result<()> {
        *seen = Seen { stamp: self.files.stamp(), failed: false };
        *self.config.write() = self.files.load()?;
        Ok(())
    }
}

/// A connection after its handshake.
pub(super) struct Stream {
    tls: TlsStream<TcpStream>,
    /// Dropped after `close_notify` has been sent.
    goodbye: Option<Goodbye>,
}

impl PacedSocket for Stream {
    fn reset_on_drop(&self) {
        self.tls.get_ref().0.reset_on_drop();
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = ready!(Pin::new(&mut self.tls).poll_shutdown(cx));
        self.goodbye = None;
        Poll::Ready(done)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rcgen::{CertifiedKey, generate_simple_self_signed};

    use super::*;

    /// A temporary directory.
    struct Dir(PathBuf);

    impl Dir {
        fn new() -> Self {
            static NEXT: AtomicUsize = AtomicUsize::new(0);
            let next = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("ripplecast-look-{}-{next}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn put(&self, name: &str, content: &str) {
            std::fs::write(self.0.join("new"), content).unwrap();
            std::fs::rename(self.0.join("new"), self.0.join(name)).unwrap();
        }

        fn load(&self) -> Result<Tls> {
            let file = |setting, name| TlsFile::new(setting, self.0.join(name));
            Tls::load(TlsFiles::new(file("cert", "cert.pem"), file("key", "key.pem")))
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// Generates a certificate and its key.
    fn pair() -> (String, String) {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        (cert.pem(), signing_key.serialize_pem())
    }

    /// Checks the files. Returns whether the configuration is new and whether the files failed and will be
    /// retried.
    fn reload_if_changed(tls: &Tls) -> (bool, bool) {
        let before = tls.0.config.read().clone();
        tls.0.reload_if_changed();
        let changed = !Arc::ptr_eq(&before, &tls.0.config.read());
        (changed, tls.0.seen.lock().failed)
    }

    #[test]
    fn files_are_loaded_when_they_change_and_only_then() {
        let dir = Dir::new();
        let (first, second) = (pair(), pair());
        dir.put("cert.pem", &first.0);
        dir.put("key.pem", &first.1);
        let tls = dir.load().unwrap();
        assert_eq!(reload_if_changed(&tls), (false, false));
        assert_eq!(reload_if_changed(&tls), (false, false));
        // One file after the other, with a check in between: files that do not match are not used, and not
        // yet logged.
        dir.put("cert.pem", &second.0);
        assert_eq!(reload_if_changed(&tls), (false, true));
        dir.put("key.pem", &second.1);
        assert_eq!(reload_if_changed(&tls), (true, false));
        assert_eq!(reload_if_changed(&tls), (false, false));
        // Files that stay broken are logged at the second check, and then ignored until they change.
        dir.put("key.pem", &first.1);
        assert_eq!(reload_if_changed(&tls), (false, true));
        assert_eq!(reload_if_changed(&tls), (false, false));
        assert_eq!(reload_if_changed(&tls), (false, false));
        std::fs::remove_file(dir.0.join("cert.pem")).unwrap();
        assert_eq!(reload_if_changed(&tls), (false, true));
        assert_eq!(reload_if_changed(&tls), (false, false));
        dir.put("cert.pem", &first.0);
        assert_eq!(reload_if_changed(&tls), (true, false));
        // In place and with the same length, as a text editor writes.
        let same_length = first.0.replacen("BEGIN", "begin", 1);
        std::fs::write(dir.0.join("cert.pem"), same_length).unwrap();
        assert_eq!(reload_if_changed(&tls), (false, true));
    }
}
