//! Serves static files, never from outside their root.

use std::{
    convert::Infallible,
    io,
    path::{Component, Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, Method, Request, StatusCode, header};
use percent_encoding::percent_decode_str;
use tower_http::services::ServeFile;
use tower_service::Service;

use crate::{
    Error, Result,
    log::{cut, limited},
};

/// The file served for its directory.
const INDEX: &str = "index.html";

/// Options of [`App::files_with`](crate::App::files_with).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> ripplecast::Result<()> {
/// use ripplecast::{App, FileOptions};
///
/// let app = App::builder().build().await?;
/// let app = app.files_with("/dist", ".", FileOptions::new().hidden(true))?;
/// # let _ = app;
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[must_use = "options do nothing until they are given to App::files_with"]
pub struct FileOptions {
    hidden: bool,
}

impl FileOptions {
    /// Returns the defaults: hidden files and backups are 404.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets whether to serve names that begin with a dot, such as `.env` and `.git`, and editors' backups
    /// (`~`, `.bak`, `.orig`, `.swp`, `#…#`); default false. `.well-known` is always served.
    pub fn hidden(mut self, hidden: bool) -> Self {
        self.hidden = hidden;
        self
    }
}

/// Creates a service for the files under `root`.
///
/// # Errors
/// [`Error::Setting`] when `root` is not a directory that can be read.
pub(crate) fn files(root: &Path, options: FileOptions) -> Result<Files> {
    let real =
        root.canonicalize().and_then(|real| std::fs::read_dir(&real).map(|_| real)).map_err(|error| {
            Error::setting("files", root.display(), format!("can't read this directory: {error}"))
        })?;
    Ok(Files { root: Arc::from(real), options })
}

/// A service for the files under one root.
///
/// A path that leads outside gets 404, however it is written: `..`, encoded slashes, backslashes, NUL, or a
/// symbolic link. Links that stay inside are followed. A directory is served as its `index.html` and never
/// listed. Hidden files and backups get 404 too, unless the options allow them.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    /// With all symbolic links resolved.
    root: Arc<Path>,
    options: FileOptions,
}

impl Service<Request<Body>> for Files {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let files = self.clone();
        Box::pin(async move { Ok(respond(files, request).await) })
    }
}

async fn respond(Files { root, options }: Files, request: Request<Body>) -> Response {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "GET, HEAD")]).into_response();
    }
    let Some(requested) = RequestedPath::parse(request.uri().path(), options) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let found = tokio::task::spawn_blocking(move || requested.find(&root)).await;
    match found {
        Ok(Some(Found::File(path))) => send(&path, request).await,
        Ok(Some(Found::Directory)) => with_slash(request.uri().path()),
        Ok(None) => StatusCode::NOT_FOUND.into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Sends a file, with support for ranges and `If-Modified-Since`.
async fn send(path: &Path, request: Request<Body>) -> Response {
    match ServeFile::new(path).try_call(request).await {
        Ok(response) => {
            let mut response = response.map(Body::new);
            // A browser must not run an uploaded image as a script.
            let nosniff = HeaderValue::from_static("nosniff");
            response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
            response
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => StatusCode::NOT_FOUND.into_response(),
        Err(error) => {
            limited!(WARN, path = %cut(path.display()), %error, "can't send a file");
            StatusCode::NOT_FOUND.into_response()
        }
    }
}

/// Redirects a directory requested without its trailing slash, so that relative links in the index work. The
/// target is relative to the requested path, so it can't lead to another host.
fn with_slash(path: &str) -> Response {
    let last = path.rsplit('/').next().unwrap_or_default();
    match HeaderValue::from_str(&format!("./{last}/")) {
        Ok(target) => (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, target)]).into_response(),
        Err(_) => StatusCode::NOT_FOUND.into_response(),
    }
}

/// A requested path below the root, made only of plain names.
struct RequestedPath {
    /// Relative to the root.
    below: PathBuf,
    /// Whether the path ends with a slash.
    slash: bool,
}

/// What a path leads to.
enum Found {
    /// A file, with every symbolic link resolved, inside the root.
    File(PathBuf),
    /// A directory with an index, requested without the trailing slash.
    Directory,
}

impl RequestedPath {
    /// Parses the path of a URI; `None` unless each part is the plain name of a file.
    fn parse(path: &str, options: FileOptions) -> Option<Self> {
        let path = path.strip_prefix('/').unwrap_or(path);
        let mut below = PathBuf::new();
        if path.is_empty() {
            return Some(Self { below, slash: true });
        }
        let names = path.strip_suffix('/');
        for part in names.unwrap_or(path).split('/') {
            let name = percent_decode_str(part).decode_utf8().ok()?;
            if !options.hidden && is_hidden(&name) {
                return None;
            }
            below.push(plain(&name)?);
        }
        let slash = names.is_some();
        Some(Self { below, slash })
    }

    /// Returns what the path leads to, if it is inside the root.
    fn find(&self, root: &Path) -> Option<Found> {
        let real = inside(root, &root.join(&self.below))?;
        let kind = std::fs::metadata(&real).ok()?;
        match (kind.is_dir(), self.slash) {
            (false, false) => kind.is_file().then_some(Found::File(real)),
            (false, true) => None,
            (true, slash) => {
                let index = inside(root, &real.join(INDEX))?;
                if !std::fs::metadata(&index).ok()?.is_file() {
                    return None;
                }
                Some(if slash { Found::File(index) } else { Found::Directory })
            }
        }
    }
}

/// Returns whether a name belongs to a file that is not meant for visitors: secrets, a repository, an
/// editor's backup.
fn is_hidden(name: &str) -> bool {
    let ends_with = |ending: &str| {
        name.len()
            .checked_sub(ending.len())
            .and_then(|at| name.get(at..))
            .is_some_and(|end| end.eq_ignore_ascii_case(ending))
    };
    (name.starts_with('.') && name != ".well-known")
        || (name.starts_with('#') && name.ends_with('#'))
        || ["~", ".bak", ".orig", ".swp"].into_iter().any(ends_with)
}

/// Returns the name if it is plain: not `..`, without any system's separator, a drive or NUL.
fn plain(name: &str) -> Option<&str> {
    if name.contains(['/', '\\', '\0']) {
        return None;
    }
    let mut components = Path::new(name).components();
    match (components.next(), components.next()) {
        (Some(Component::Normal(only)), None) if only == name => Some(name),
        _ => None,
    }
}

/// Returns `path` with all symbolic links resolved, if the result is inside `root`, which has none.
fn inside(root: &Path, path: &Path) -> Option<PathBuf> {
    path.canonicalize().ok().filter(|real| real.starts_with(root))
}

#[cfg(test)]
mod tests {
    use std::{fs, process, sync::atomic::AtomicU32};

    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;

    /// A temporary directory: `public/` to serve, and `secret.txt` next to it.
    struct TestSite(PathBuf);

    impl TestSite {
        fn new() -> Self {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let next = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let dir = std::env::temp_dir().join(format!("ripplecast-files-{}-{next}", process::id()));
            fs::create_dir_all(dir.join("public/docs")).unwrap();
            for inner in ["empty", ".git", ".well-known"] {
                fs::create_dir_all(dir.join("public").join(inner)).unwrap();
            }
            fs::create_dir_all(dir.join("outside")).unwrap();
            for (path, text) in [
                ("secret.txt", "secret"),
                ("outside/index.html", "secret"),
                ("public/index.html", "<p>front"),
                ("public/a b.txt", "spaced"),
                ("public/.env", "KEY=secret"),
                ("public/.git/config", "secret"),
                ("public/docs/.htpasswd", "secret"),
                ("public/app.js~", "secret"),
                ("public/app.js.bak", "secret"),
                ("public/app.js.ORIG", "secret"),
                ("public/app.js.swp", "secret"),
                ("public/#app.js#", "secret"),
                ("public/.well-known/security.txt", "Contact"),
                ("public/a.dotted.name", "dots"),
                ("public/app.js", "let x"),
                ("public/docs/index.html", "<p>docs"),
            ] {
                fs::write(dir.join(path), text).unwrap();
            }
            Self(dir)
        }

        fn files(&self) -> Files {
            files(&self.0.join("public"), FileOptions::new()).unwrap()
        }
    }

    impl Drop for TestSite {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    async fn ask(files: &Files, method: Method, path: &str) -> (StatusCode, String, Response<()>) {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        let (parts, body) = files.clone().oneshot(request).await.unwrap().into_parts();
        let text = body.collect().await.unwrap().to_bytes();
        (parts.status, String::from_utf8(text.to_vec()).unwrap(), Response::from_parts(parts, ()))
    }

    #[tokio::test]
    async fn files_inside_are_served() {
        let site = TestSite::new();
        let files = site.files();
        for (path, text, kind) in [
            ("/", "<p>front", "text/html"),
            ("/index.html", "<p>front", "text/html"),
            ("/app.js", "let x", "text/javascript"),
            ("/a%20b.txt", "spaced", "text/plain"),
            ("/a.dotted.name", "dots", "application/octet-stream"),
            ("/.well-known/security.txt", "Contact", "text/plain"),
            ("/docs/", "<p>docs", "text/html"),
            ("/%64ocs/index.html?x=/..", "<p>docs", "text/html"),
        ] {
            let (status, body, response) = ask(&files, Method::GET, path).await;
            assert_eq!((status, body.as_str()), (StatusCode::OK, text), "{path}");
            let content_type = response.headers()[header::CONTENT_TYPE].to_str().unwrap();
            assert!(content_type.starts_with(kind), "{path}: {content_type}");
            assert_eq!(response.headers()[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        }
        let (status, body, response) = ask(&files, Method::HEAD, "/app.js").await;
        assert_eq!((status, body.as_str()), (StatusCode::OK, ""));
        assert_eq!(response.headers()[header::CONTENT_LENGTH], "5");
    }

    #[tokio::test]
    async fn nothing_outside_is_served() {
        let site = TestSite::new();
        let files = site.files();
        for path in [
            "/../secret.txt",
            "/docs/../../secret.txt",
            "/docs/../index.html",
            "/./index.html",
            "/%2e%2e/secret.txt",
            "/%2E%2e/secret.txt",
            "/.%2e/secret.txt",
            "/..%2fsecret.txt",
            "/%2e%2e%2fsecret.txt",
            "/docs%2findex.html",
            "/%2fetc%2fpasswd",
            "//etc/passwd",
            "/..%5csecret.txt",
            "/docs%5cindex.html",
            "/..\\secret.txt",
            "/index.html%00",
            "/index.html%00.txt",
            "/%00",
            "/%ff",
            "/%252e%252e/secret.txt",
            "/docs//index.html",
            "//",
            "/index.html/",
            "/index.html/x",
            "/missing",
            // Never a listing.
            "/empty",
            "/empty/",
        ] {
            let (status, body, _) = ask(&files, Method::GET, path).await;
            assert_eq!((status, body.as_str()), (StatusCode::NOT_FOUND, ""), "{path}");
        }
        let long = format!("/{}", "a".repeat(5_000));
        assert_eq!(ask(&files, Method::GET, &long).await.0, StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn hidden_files_and_backups_are_served_only_if_allowed() {
        let site = TestSite::new();
        let allowed = files(&site.0.join("public"), FileOptions::new().hidden(true)).unwrap();
        for path in [
            "/.env",
            "/%2eenv",
            "/.git/config",
            "/docs/.htpasswd",
            "/app.js~",
            "/app.js%7e",
            "/app.js.bak",
            "/app.js.ORIG",
            "/app.js.swp",
            "/%23app.js%23",
        ] {
            let (status, body, _) = ask(&site.files(), Method::GET, path).await;
            assert_eq!((status, body.as_str()), (StatusCode::NOT_FOUND, ""), "{path}");
            assert_eq!(ask(&allowed, Method::GET, path).await.0, StatusCode::OK, "{path}");
        }
        assert_eq!(ask(&allowed, Method::GET, "/../secret.txt").await.0, StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn symbolic_links_are_followed_inside_and_refused_outside() {
        use std::os::unix::fs::symlink;

        let site = TestSite::new();
        let public = site.0.join("public");
        symlink(site.0.join("secret.txt"), public.join("absolute.txt")).unwrap();
        symlink("../secret.txt", public.join("relative.txt")).unwrap();
        symlink(site.0.join("outside"), public.join("dir")).unwrap();
        symlink("..", public.join("up")).unwrap();
        symlink("absolute.txt", public.join("twice.txt")).unwrap();
        symlink("loop", public.join("loop")).unwrap();
        symlink("nowhere", public.join("dangling")).unwrap();
        // A sibling whose name begins with the root's.
        fs::create_dir(site.0.join("public-not")).unwrap();
        fs::write(site.0.join("public-not/x.txt"), "secret").unwrap();
        symlink("../public-not/x.txt", public.join("neighbour.txt")).unwrap();
        // An index that leads outside.
        fs::create_dir(public.join("trap")).unwrap();
        symlink("../../secret.txt", public.join("trap/index.html")).unwrap();
        symlink("docs/index.html", public.join("inner.html")).unwrap();
        symlink("docs", public.join("inner")).unwrap();

        let files = site.files();
        for path in [
            "/absolute.txt",
            "/relative.txt",
            "/dir",
            "/dir/",
            "/dir/index.html",
            "/up/secret.txt",
            "/up/public/index.html/",
            "/twice.txt",
            "/loop",
            "/dangling",
            "/neighbour.txt",
            "/trap",
            "/trap/",
            "/trap/index.html",
        ] {
            let (status, body, _) = ask(&files, Method::GET, path).await;
            assert_eq!((status, body.as_str()), (StatusCode::NOT_FOUND, ""), "{path}");
        }
        for path in ["/inner.html", "/inner/", "/inner/index.html"] {
            let (status, body, _) = ask(&files, Method::GET, path).await;
            assert_eq!((status, body.as_str()), (StatusCode::OK, "<p>docs"), "{path}");
        }

        // A root that is itself a link is allowed: the operator chose it.
        symlink("public", site.0.join("link")).unwrap();
        let linked = super::files(&site.0.join("link"), FileOptions::new()).unwrap();
        assert_eq!(ask(&linked, Method::GET, "/app.js").await.1, "let x");
    }

    #[tokio::test]
    async fn what_is_no_file_is_not_opened() {
        let site = TestSite::new();
        let _socket = std::os::unix::net::UnixListener::bind(site.0.join("public/socket")).unwrap();
        assert_eq!(ask(&site.files(), Method::GET, "/socket").await.0, StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn only_get_and_head_are_allowed() {
        let site = TestSite::new();
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
            let (status, _, response) = ask(&site.files(), method, "/app.js").await;
            assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
            assert_eq!(response.headers()[header::ALLOW], "GET, HEAD");
        }
    }

    #[tokio::test]
    async fn a_directory_without_its_slash_leads_to_the_one_with_it() {
        let site = TestSite::new();
        let app = axum::Router::new().nest_service("/static", site.files());
        let get = |path: &str| Request::get(path).body(Body::empty()).unwrap();
        let response = app.clone().oneshot(get("/static/docs")).await.unwrap();
        assert_eq!(response.status(), StatusCode::TEMPORARY_REDIRECT);
        assert_eq!(response.headers()[header::LOCATION], "./docs/");
        let response = app.clone().oneshot(get("/static/docs/")).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let response = app.oneshot(get("/static/%2e%2e/secret.txt")).await.unwrap();
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
    }

    #[test]
    fn an_error_names_a_root_that_is_not_a_directory() {
        let site = TestSite::new();
        for root in [site.0.join("nowhere"), site.0.join("secret.txt")] {
            let error = files(&root, FileOptions::new()).unwrap_err().to_string();
            assert!(error.contains(root.to_str().unwrap()), "{error}");
        }
    }
}
