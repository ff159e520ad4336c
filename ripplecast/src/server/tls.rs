//! TLS for the accept loop: `https://` and `wss://` from a certificate and its key, loaded anew when their files change.
//!
//! A connection keeps the configuration that it began with, so that a new certificate disturbs nobody.

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
    sync::watch,
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

use super::pace::Socket;
use crate::{Error, Result};

/// How often the files are looked at. Two `stat` calls; and a certificate is renewed days before the old one ends.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// Longest file read, in bytes. A chain has some 5 KiB; a path that leads to something else must not fill the memory.
const MAX_FILE: u64 = 1 << 20;
/// What is spoken inside. For WebSockets over HTTP/2 (RFC 8441), `h2` goes in front here, and `Connection::run_tls` picks
/// hyper's server by what the client chose (`ServerConnection::alpn_protocol`).
const ALPN: [&[u8]; 1] = [b"http/1.1"];

/// Where the certificate and its key are, as the settings say.
#[derive(Clone, Debug)]
pub(crate) struct TlsFiles {
    /// The certificate with its chain.
    cert: TlsFile,
    /// Its private key.
    key: TlsFile,
}

/// One of the two files.
#[derive(Clone, Debug)]
pub(crate) struct TlsFile {
    /// The setting that names it.
    setting: &'static str,
    /// Where it is.
    path: PathBuf,
}

impl TlsFile {
    /// The file that a setting names.
    pub(crate) fn new(setting: &'static str, path: impl Into<PathBuf>) -> Self {
        Self { setting, path: path.into() }
    }

    /// Says what is wrong with it.
    fn error(&self, reason: impl Into<String>) -> Error {
        Error::setting(self.setting, self.path.display(), reason)
    }

    /// Its content.
    fn read(&self) -> Result<Vec<u8>> {
        let mut content = Vec::new();
        let mut open = || {
            let file = File::open(&self.path)?;
            if !file.metadata()?.is_file() {
                return Err(io::Error::other("it is no file"));
            }
            file.take(MAX_FILE + 1).read_to_end(&mut content)
        };
        match open() {
            Ok(read) if read as u64 > MAX_FILE => {
                Err(self.error(format!("it is longer than {MAX_FILE} bytes, and no PEM file of this kind")))
            }
            Ok(_) => Ok(content),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(self.error("there is no such file")),
            Err(error) => Err(self.error(format!("it can't be read: {error}"))),
        }
    }

    /// Its PEM sections.
    fn sections(&self, content: &[u8]) -> Result<Vec<(SectionKind, Vec<u8>)>> {
        <(SectionKind, Vec<u8>)>::pem_slice_iter(content)
            .collect::<Result<_, _>>()
            .map_err(|_| self.error("it is broken: a PEM section in it does not end, or is no base64"))
    }

    /// What tells that it has changed: which file it is, its length and its times. `None` when it can't be looked at.
    fn stamp(&self) -> Option<[i128; 4]> {
        /// Nanoseconds of a second.
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
    /// A certificate and its key, each in a file; it may be the same file.
    pub(crate) fn new(cert: TlsFile, key: TlsFile) -> Self {
        Self { cert, key }
    }

    /// What tells that one of them has changed.
    fn stamp(&self) -> Stamp {
        [self.cert.stamp(), self.key.stamp()]
    }

    /// Reads both, and checks that they belong together.
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
        // Who comes back is spared the costly half of a handshake. The state is with the client, so that it costs no
        // memory here; its key is new with each certificate, so that who comes back sees the new one.
        config.ticketer = ring::Ticketer::new().map_err(Error::other)?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Arc::new(config))
    }

    /// The certificate, and those that lead to its root.
    fn chain(&self) -> Result<Vec<CertificateDer<'static>>> {
        let sections = self.cert.sections(&self.cert.read()?)?;
        let is_key = |(kind, _): &(SectionKind, Vec<u8>)| private_key(*kind, &[]).is_some();
        let holds_key = sections.iter().any(is_key);
        let certs = sections.into_iter().filter(|(kind, _)| *kind == SectionKind::Certificate);
        let chain: Vec<_> = certs.map(|(_, der)| CertificateDer::from(der)).collect();
        if chain.is_empty() {
            let hint = if holds_key {
                " but a key; is it the other file?"
            } else {
                " (-----BEGIN CERTIFICATE-----)"
            };
            return Err(self.cert.error(format!("there is no certificate in it{hint}")));
        }
        Ok(chain)
    }

    /// The key, ready to sign with.
    fn signing_key(&self, provider: &CryptoProvider) -> Result<Arc<dyn rustls::sign::SigningKey>> {
        let content = self.key.read()?;
        let sections = self.key.sections(&content)?;
        let Some(key) = sections.iter().find_map(|(kind, der)| private_key(*kind, der)) else {
            let encrypted = content.windows(9).any(|text| text == b"ENCRYPTED");
            let hint = if encrypted {
                " that is not encrypted; decrypt it with `openssl pkey`"
            } else {
                " (-----BEGIN PRIVATE KEY-----, or RSA or EC before PRIVATE)"
            };
            return Err(self.key.error(format!("there is no private key in it{hint}")));
        };
        let load = provider.key_provider.load_private_key(key);
        load.map_err(|error| self.key.error(format!("its key can't be used: {error}")))
    }
}

/// A private key in any of the three encodings; `None` for any other section.
fn private_key(kind: SectionKind, der: &[u8]) -> Option<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem(kind, der.to_vec())
}

/// See [`TlsFiles::stamp`].
type Stamp = [Option<[i128; 4]>; 2];

/// The certificate of an app that speaks TLS, given by [`App::tls`](crate::App::tls). Cheap to clone.
///
/// The files are looked at every three seconds, so that nothing has to be done when a certificate is renewed. Who does not
/// want to wait calls [`reload`](Self::reload).
#[derive(Clone)]
pub struct Tls(Arc<Shared>);

/// What all handles share.
struct Shared {
    /// Where it came from.
    files: TlsFiles,
    /// For new connections.
    config: RwLock<Arc<ServerConfig>>,
    /// What was found in the files when they were last looked at. Locked while they are read, so that what was read
    /// earlier never replaces what was read later.
    seen: Mutex<Seen>,
}

/// What was found in the files.
struct Seen {
    /// What tells that they have changed since.
    stamp: Stamp,
    /// They could not be used. That is said only if it is still so at the next look: between the writing of one file and
    /// the other they do not belong together.
    failed: bool,
}

impl Tls {
    /// Loads the files for the first time.
    pub(crate) fn load(files: TlsFiles) -> Result<Self> {
        let stamp = files.stamp(); // before they are read, so that a later change is one
        let config = RwLock::new(files.load()?);
        Ok(Self(Arc::new(Shared { files, config, seen: Mutex::new(Seen { stamp, failed: false }) })))
    }

    /// Loads the files anew at once. New connections get what is in them; those that are open go on as they are.
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
    /// [`Error::Setting`] when they can't be used; what was there before stays.
    pub async fn reload(&self) -> Result<()> {
        let shared = self.0.clone();
        let loaded = tokio::task::spawn_blocking(move || shared.load_anew(&mut shared.seen.lock()));
        loaded.await.map_err(Error::other)?
    }

    /// Looks at the files every few seconds, and loads them when they have changed.
    pub(super) async fn watch(&self) -> Infallible {
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            let shared = self.0.clone();
            // A file may be far away; nobody else is to wait for it.
            if let Err(error) = tokio::task::spawn_blocking(move || shared.look()).await {
                tracing::error!(%error, "the certificate files could not be looked at");
            }
        }
    }

    /// Does a client's handshake.
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

impl Shared {
    /// Loads the files if they have changed.
    fn look(&self) {
        let mut seen = self.seen.lock();
        let changed = self.files.stamp() != seen.stamp;
        if !changed && !seen.failed {
            return;
        }
        match self.load_anew(&mut seen) {
            Ok(()) => {
                tracing::info!(cert = %self.files.cert.path.display(), "new connections get the new certificate");
            }
            Err(_) if changed => seen.failed = true,
            Err(error) => {
                seen.failed = false;
                tracing::error!(%error, "the new certificate can't be used; the old one stays");
            }
        }
    }

    /// Loads the files, whether they have changed or not.
    fn load_anew(&self, seen: &mut Seen) -> Result<()> {
        *seen = Seen { stamp: self.files.stamp(), failed: false };
        *self.config.write() = self.files.load()?;
        Ok(())
    }
}

/// Counts the TLS connections that have not said goodbye: also those that a shard has taken over, whose last bytes are
/// still on their way through the task that drives them.
pub(super) struct Goodbyes(watch::Sender<()>);

/// One such connection.
pub(super) struct Goodbye(
    #[expect(dead_code, reason = "its being there is what counts")] watch::Receiver<()>,
);

impl Goodbyes {
    /// No connection yet.
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(()))
    }

    /// One connection more.
    pub(super) fn one_more(&self) -> Goodbye {
        Goodbye(self.0.subscribe())
    }

    /// Resolves when there is none left.
    pub(super) async fn all_said(&self) {
        self.0.closed().await;
    }
}

/// A connection after its handshake.
pub(super) struct Stream {
    /// The connection.
    tls: TlsStream<TcpStream>,
    /// Given up when everything has been sent, and the peer told that nothing more will come.
    goodbye: Option<Goodbye>,
}

impl Socket for Stream {
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

    /// A directory of this test alone.
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

    /// A certificate and its key.
    fn pair() -> (String, String) {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        (cert.pem(), signing_key.serialize_pem())
    }

    /// Looks, and says whether there is a new configuration, and whether what was found is to be tried again.
    fn look(tls: &Tls) -> (bool, bool) {
        let before = tls.0.config.read().clone();
        tls.0.look();
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
        assert_eq!(look(&tls), (false, false));
        assert_eq!(look(&tls), (false, false));
        // One file after the other, with a look between: what does not belong together is not taken, and not yet said.
        dir.put("cert.pem", &second.0);
        assert_eq!(look(&tls), (false, true));
        dir.put("key.pem", &second.1);
        assert_eq!(look(&tls), (true, false));
        assert_eq!(look(&tls), (false, false));
        // What stays broken is said at the second look, and then left alone until it changes.
        dir.put("key.pem", &first.1);
        assert_eq!(look(&tls), (false, true));
        assert_eq!(look(&tls), (false, false));
        assert_eq!(look(&tls), (false, false));
        std::fs::remove_file(dir.0.join("cert.pem")).unwrap();
        assert_eq!(look(&tls), (false, true));
        assert_eq!(look(&tls), (false, false));
        dir.put("cert.pem", &first.0);
        assert_eq!(look(&tls), (true, false));
        // In place and of the same length, as a text editor writes.
        let same_length = first.0.replacen("BEGIN", "begin", 1);
        std::fs::write(dir.0.join("cert.pem"), same_length).unwrap();
        assert_eq!(look(&tls), (false, true));
    }
}
