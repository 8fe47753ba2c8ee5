//! Fetching from real servers and real files.

mod tls;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body as AxumBody;
use axum::response::{IntoResponse as _, Redirect};
use axum::routing::get;
use http::HeaderMap;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use url::Url;

use super::*;

const MAX_BYTES: u64 = 4 << 20;

/// A fetcher with a data directory of its own, and a file root.
struct Site {
    dir: tempfile::TempDir,
    store: Arc<Store>,
    fetcher: Arc<Fetcher>,
}

impl Site {
    fn new(allowances: &[&str]) -> Self {
        Self::with(allowances, |_| {})
    }

    fn with(allowances: &[&str], edit: impl FnOnce(&mut FetchOptions)) -> Self {
        // Another test may have installed it.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&dir.path().join("data")).unwrap());
        let mut options = FetchOptions {
            store: Arc::clone(&store),
            egress: Egress::new(allowances.iter().map(|allowance| allowance.parse().unwrap()).collect()),
            file_roots: vec![dir.path().join("root")],
            allow_http: true,
            max_bytes: MAX_BYTES,
        };
        fs::create_dir(dir.path().join("root")).unwrap();
        edit(&mut options);
        Self { dir, store, fetcher: Arc::new(Fetcher::new(options).unwrap()) }
    }

    async fn fetch(&self, uri: &str, bytes: &[u8]) -> Result<Fetched, FetchError> {
        let uri = SourceUri::parse(uri).unwrap();
        self.fetcher.fetch(&uri, &Sha256::of(bytes)).await
    }

    async fn refused(&self, uri: &str) -> FetchError {
        let error = self.fetch(uri, b"a model").await.unwrap_err();
        assert!(self.is_empty(), "{error}");
        error
    }

    async fn text(&self, uri: &str, limit: usize) -> Result<String, FetchError> {
        self.fetcher.text(&SourceUri::parse(uri).unwrap(), limit).await
    }

    /// Whether nothing is stored, nor half stored.
    fn is_empty(&self) -> bool {
        ["data/blobs/sha256", "data/tmp"].iter().all(|folder| count(&self.dir.path().join(folder)) == 0)
    }
}

fn count(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

/// The base URL of a server that runs until the test ends.
async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    base
}

/// The URL of a server that answers a request with exactly these bytes, then does with the connection as `after` says.
async fn serve_raw<F: Future<Output = ()> + Send + 'static>(
    answer: &'static str,
    after: fn(TcpStream) -> F,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/m.onnx", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(connection.read_u8().await.unwrap());
            }
            connection.write_all(answer.as_bytes()).await.unwrap();
            after(connection).await;
        }
    });
    url
}

async fn close(_: TcpStream) {}

fn pieces(pieces: Vec<Vec<u8>>) -> AxumBody {
    let pieces = pieces.into_iter().map(|piece| Ok::<_, std::io::Error>(Bytes::from(piece)));
    AxumBody::from_stream(futures_util::stream::iter(pieces))
}

#[tokio::test]
async fn a_file_is_streamed_into_the_store_and_not_fetched_twice() {
    let requests = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&requests);
    let large: Vec<u8> = (0..3_u32 << 20).map(|index| index.to_le_bytes()[1]).collect();
    let answer = large.clone();
    let router = Router::new().route(
        "/m.onnx",
        get(move |headers: HeaderMap| async move {
            seen.fetch_add(1, Ordering::Relaxed);
            let agent = headers[header::USER_AGENT].to_str().unwrap();
            assert!(agent.starts_with("terrace/"), "{agent}");
            pieces(answer.chunks(100_000).map(<[u8]>::to_vec).collect())
        }),
    );
    let (site, base) = (Site::new(&["127.0.0.1"]), serve(router).await);
    let url = format!("{base}/m.onnx");
    let bytes = large.len() as u64;
    assert_eq!(site.fetch(&url, &large).await.unwrap(), Fetched { bytes, already: false });
    assert_eq!(site.fetch(&url, &large).await.unwrap(), Fetched { bytes, already: true });
    assert_eq!(requests.load(Ordering::Relaxed), 1);
    assert_eq!(site.store.read_verified(&Sha256::of(&large)).unwrap(), large);

    // What was damaged on disk since is not taken for the file.
    fs::write(site.store.path(&Sha256::of(&large)), "damaged").unwrap();
    assert_eq!(site.fetch(&url, &large).await.unwrap(), Fetched { bytes, already: false });
    assert_eq!(site.store.read_verified(&Sha256::of(&large)).unwrap(), large);
}

#[tokio::test]
async fn the_same_file_may_be_fetched_twice_at_once() {
    let base = serve(Router::new().route("/m.onnx", get(|| async { "a model" }))).await;
    let site = Site::new(&["127.0.0.1"]);
    let url = format!("{base}/m.onnx");
    let (one, other) = tokio::join!(site.fetch(&url, b"a model"), site.fetch(&url, b"a model"));
    assert!(one.is_ok() && other.is_ok());
    assert_eq!(site.store.read_verified(&Sha256::of(b"a model")).unwrap(), b"a model");
    assert_eq!(count(&site.dir.path().join("data/tmp")), 0);
}

#[tokio::test]
async fn a_wrong_file_leaves_nothing_and_is_downloaded_again_only_once_it_has_changed() {
    let served = Arc::new(Mutex::new("another"));
    let downloads = Arc::new(AtomicUsize::new(0));
    let (now, counter) = (Arc::clone(&served), Arc::clone(&downloads));
    let router = Router::new().route(
        "/m.onnx",
        get(move |headers: HeaderMap| async move {
            let body = *now.lock().unwrap();
            let etag = format!("\"{body}\"");
            if headers.get(header::IF_NONE_MATCH).is_some_and(|known| known == etag.as_str()) {
                return StatusCode::NOT_MODIFIED.into_response();
            }
            counter.fetch_add(1, Ordering::Relaxed);
            ([(header::ETAG, etag)], body).into_response()
        }),
    );
    let (site, base) = (Site::new(&["127.0.0.1"]), serve(router).await);
    let url = format!("{base}/m.onnx");
    for _ in 0..2 {
        let error = site.refused(&url).await;
        assert_eq!((error.reason(), error.retryable()), ("DigestMismatch", true));
        let FetchError::DigestMismatch { expected, actual, bytes: 7, .. } = error else { panic!("{error}") };
        assert_eq!((expected, actual), (Sha256::of(b"a model"), Sha256::of(b"another")));
    }
    assert_eq!(downloads.load(Ordering::Relaxed), 1);
    // For another digest it may be the right one.
    assert!(site.fetch(&url, b"another").await.is_ok());
    *served.lock().unwrap() = "a model";
    assert!(site.fetch(&url, b"a model").await.is_ok());
}

#[tokio::test]
async fn a_file_that_is_cut_off_leaves_nothing() {
    let site = Site::new(&["127.0.0.1"]);
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\na model",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n7\r\na model\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n20\r\na model",
    ] {
        let error = site.refused(&serve_raw(answer, close).await).await;
        assert!(matches!(error, FetchError::CutOff { received: 7, .. }), "{error}");
        assert_eq!((error.reason(), error.retryable()), ("FetchFailed", true));
    }
    for answer in ["", "HTTP/1.1 200", "nonsense\r\n\r\n"] {
        let error = site.refused(&serve_raw(answer, close).await).await;
        assert!(matches!(error, FetchError::CutOff { received: 0, .. }), "{error}");
    }
}

#[tokio::test]
async fn a_fetch_that_is_given_up_leaves_nothing() {
    let url = serve_raw("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\na model", |connection| async move {
        std::future::pending::<()>().await;
        drop(connection);
    });
    let (site, url) = (Site::new(&["127.0.0.1"]), SourceUri::parse(&url.await).unwrap());
    let fetcher = Arc::clone(&site.fetcher);
    let fetch = tokio::spawn(async move { fetcher.fetch(&url, &Sha256::of(b"a model")).await });
    let tmp = site.dir.path().join("data/tmp");
    until(|| count(&tmp) == 1).await;
    fetch.abort();
    until(|| site.is_empty()).await;
}

#[tokio::test]
async fn a_source_that_stalls_is_given_up() {
    let url = serve_raw("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\na model", |connection| async move {
        std::future::pending::<()>().await;
        drop(connection);
    });
    let (site, url) = (Site::new(&["127.0.0.1"]), SourceUri::parse(&url.await).unwrap());
    let fetcher = Arc::clone(&site.fetcher);
    let fetch = tokio::spawn(async move { fetcher.fetch(&url, &Sha256::of(b"a model")).await });
    until(|| count(&site.dir.path().join("data/tmp")) == 1).await;
    // From here on nothing but time passes.
    tokio::time::pause();
    let error = fetch.await.unwrap().unwrap_err();
    assert!(matches!(error, FetchError::TimedOut { .. }), "{error}");
    assert_eq!((error.reason(), error.retryable()), ("FetchFailed", true));
    assert!(site.is_empty());
}

async fn until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "in ten seconds it did not come about");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_file_that_is_too_large_is_refused_whether_or_not_it_says_so() {
    let over = usize::try_from(MAX_BYTES).unwrap() + 1;
    let router = Router::new()
        .route("/said", get(move || async move { vec![0; over] }))
        .route("/unsaid", get(move || async move { pieces(vec![vec![0; over - 1], vec![0; 1]]) }));
    let (site, base) = (Site::new(&["127.0.0.1"]), serve(router).await);
    fs::write(site.dir.path().join("root/m.onnx"), vec![0; over]).unwrap();
    for url in [&format!("{base}/said"), &format!("{base}/unsaid"), "file:///m.onnx"] {
        let error = site.refused(url).await;
        assert_eq!((error.reason(), error.retryable()), ("TooLarge", false), "{error}");
        assert!(error.to_string().contains("--max-model-bytes"), "{error}");
    }
}

#[tokio::test]
async fn statuses_other_than_success_are_errors() {
    let router = Router::new().route(
        "/{status}",
        get(|axum::extract::Path(status): axum::extract::Path<u16>| async move {
            (StatusCode::from_u16(status).unwrap(), "a model")
        }),
    );
    let (site, base) = (Site::new(&["127.0.0.1"]), serve(router).await);
    for status in [300, 304, 400, 401, 403, 404, 410, 416, 429, 500, 503] {
        let error = site.refused(&format!("{base}/{status}")).await;
        let FetchError::Status { status: told, .. } = error else { panic!("{error}") };
        assert_eq!(told, status);
        assert_eq!((error.reason(), error.retryable()), ("FetchFailed", true));
    }
}

#[tokio::test]
async fn redirects_are_followed_only_to_what_is_allowed() {
    let router = Router::new()
        .route(
            "/m.onnx",
            get(|headers: HeaderMap| async move {
                assert!(!headers.contains_key(header::REFERER));
                "a model"
            }),
        )
        .route("/here", get(|| async { Redirect::temporary("/m.onnx") }))
        .route("/metadata", get(|| async { Redirect::temporary("http://169.254.169.254/m.onnx?secret") }))
        .route("/mapped", get(|| async { Redirect::permanent("http://[::ffff:127.0.0.2]/m.onnx?secret") }))
        .route("/octal", get(|| async { Redirect::to("http://0177.0.0.2/m.onnx?secret") }))
        .route("/user", get(|| async { Redirect::to("http://127.0.0.1@127.0.0.2/m.onnx?secret") }))
        .route("/file", get(|| async { Redirect::to("file:///etc/passwd") }));
    // 127.0.0.2 is this machine as well, but it is not listed.
    let (site, base) = (Site::new(&["127.0.0.1", "models.example"]), serve(router).await);
    for path in ["metadata", "mapped", "octal", "user"] {
        let error = site.refused(&format!("{base}/{path}")).await;
        assert!(matches!(error, FetchError::Redirect { .. }), "{error}");
        assert_eq!((error.reason(), error.retryable()), ("SourceNotAllowed", true));
        assert!(!error.to_string().contains("secret") && error.to_string().contains(path), "{error}");
    }
    site.refused(&format!("{base}/file")).await;
    assert!(site.fetch(&format!("{base}/here"), b"a model").await.is_ok());
}

#[tokio::test]
async fn a_chain_of_redirects_ends() {
    let router = Router::new().route(
        "/{left}",
        get(|axum::extract::Path(left): axum::extract::Path<usize>| async move {
            match left {
                0 => "a model".into_response(),
                _ => Redirect::temporary(&format!("/{}", left - 1)).into_response(),
            }
        }),
    );
    let (site, base) = (Site::new(&["127.0.0.1"]), serve(router).await);
    let error = site.refused(&format!("{base}/6")).await;
    assert_eq!(error.reason(), "FetchFailed");
    assert!(error.to_string().contains("more than 5 redirects"), "{error}");
    assert!(site.fetch(&format!("{base}/5"), b"a model").await.is_ok());
}

#[tokio::test]
async fn loopback_is_not_reached_unless_it_is_listed() {
    let base = serve(Router::new().route("/m.onnx", get(|| async { "a model" }))).await;
    let port = base.rsplit(':').next().unwrap();
    for (allowances, host, allowed) in [
        (&[][..], "127.0.0.1", false),
        (&[], "localhost", false),
        (&["127.0.0.2"], "localhost", false),
        (&["127.0.0.2"], "127.0.0.1", false),
        (&["localhost"], "localhost", true),
        (&["127.0.0.0/8"], "localhost", true),
        (&["127.0.0.1"], "127.0.0.1", true),
    ] {
        let site = Site::new(allowances);
        let outcome = site.fetch(&format!("http://{host}:{port}/m.onnx"), b"a model").await;
        assert_eq!(outcome.is_ok(), allowed, "{allowances:?} {host}: {outcome:?}");
        if let Err(error) = outcome {
            assert_eq!(error.reason(), "SourceNotAllowed");
            assert!(error.to_string().contains(&format!("{host} ")), "{error}");
            assert!(error.to_string().contains("--allow-upstream"), "{error}");
        }
    }
}

#[tokio::test]
async fn the_address_that_a_name_resolves_to_is_what_counts() {
    let base = serve(Router::new().route("/m.onnx", get(|| async { "a model" }))).await;
    let port = base.rsplit(':').next().unwrap();
    let site = Site::new(&[]);
    // Past the check of the URL: what a name that is not known to be loopback would meet.
    let client = &site.fetcher.client;
    let error = client.get(format!("http://localhost:{port}/m.onnx?secret")).send().await.unwrap_err();
    let error = FetchError::no_answer("http://localhost/m.onnx".to_owned(), &error);
    assert!(matches!(error, FetchError::AddressNotAllowed { .. }), "{error}");
    assert_eq!((error.reason(), error.retryable()), ("SourceNotAllowed", true));
    assert!(error.to_string().contains("localhost resolves to "), "{error}");
}

#[tokio::test]
async fn a_source_that_cannot_be_connected_to_is_told_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = listener.local_addr().unwrap();
    drop(listener);
    let error = Site::new(&["127.0.0.1"]).refused(&format!("http://{closed}/m.onnx?secret")).await;
    let message = error.to_string();
    assert!(matches!(error, FetchError::Connect { .. }), "{message}");
    assert_eq!((error.reason(), error.retryable()), ("FetchFailed", true));
    assert!(message.starts_with(&format!("http://{closed}/m.onnx: cannot connect: ")), "{message}");
    assert!(message.contains("Connection refused") && !message.contains("secret"), "{message}");
}

#[tokio::test]
async fn http_sources_need_the_flag() {
    let site = Site::with(&["127.0.0.1"], |options| options.allow_http = false);
    let error = site.refused("http://127.0.0.1/m.onnx?secret").await;
    assert_eq!((error.reason(), error.retryable()), ("SourceNotAllowed", false));
    assert_eq!(
        error.to_string(),
        "http://127.0.0.1/m.onnx: http:// sources are read only with --allow-http-sources; use https://"
    );
}

#[tokio::test]
async fn a_text_is_read_up_to_its_limit() {
    let router = Router::new()
        .route("/sums", get(|| async { "0123456789" }))
        .route("/unsaid", get(|| async { pieces(vec![b"01234".to_vec(), b"56789".to_vec()]) }))
        .route("/bytes", get(|| async { vec![0xff_u8] }));
    let (site, base) = (Site::new(&["127.0.0.1"]), serve(router).await);
    fs::write(site.dir.path().join("root/sums"), "0123456789").unwrap();
    for url in [&format!("{base}/sums"), &format!("{base}/unsaid"), "file:///sums"] {
        assert_eq!(site.text(url, 10).await.unwrap(), "0123456789");
        assert_eq!(site.text(url, 9).await.unwrap_err().reason(), "TooLarge");
    }
    assert!(matches!(site.text(&format!("{base}/bytes"), 10).await, Err(FetchError::NotText { .. })));
}

#[tokio::test]
async fn a_file_below_a_root_is_copied_into_the_store() {
    let site = Site::new(&[]);
    let root = site.dir.path().join("root");
    let large = vec![7; 3 << 20];
    fs::write(root.join("m.onnx"), &large).unwrap();
    let bytes = large.len() as u64;
    assert_eq!(site.fetch("file:///m.onnx", &large).await.unwrap(), Fetched { bytes, already: false });
    fs::remove_file(root.join("m.onnx")).unwrap();
    assert_eq!(site.fetch("file:///m.onnx", &large).await.unwrap(), Fetched { bytes, already: true });
}

#[tokio::test]
async fn a_file_that_is_not_there_or_elsewhere_is_refused() {
    let site = Site::new(&[]);
    let root = site.dir.path().join("root");
    fs::write(site.dir.path().join("secret"), "a model").unwrap();
    std::os::unix::fs::symlink("../secret", root.join("link")).unwrap();
    fs::write(root.join("wrong"), "another").unwrap();

    let absent = site.refused("file:///a/m.onnx").await;
    assert_eq!((absent.reason(), absent.retryable()), ("FetchFailed", true));
    assert_eq!(absent.to_string(), format!("file:///a/m.onnx: no such file below {}", root.display()));
    let link = site.refused("file:///link").await;
    assert_eq!(link.reason(), "SourceNotAllowed");
    assert!(link.to_string().contains("a symbolic link leads out of"), "{link}");
    assert_eq!(site.refused("file:///wrong").await.reason(), "DigestMismatch");

    let rootless = Site::with(&[], |options| options.file_roots.clear());
    let error = rootless.refused("file:///m.onnx").await;
    assert_eq!((error.reason(), error.retryable()), ("SourceNotAllowed", false));
    assert!(error.to_string().contains("--file-root"), "{error}");
}

#[tokio::test]
async fn a_store_that_cannot_be_written_is_told_so() {
    let base = serve(Router::new().route("/m.onnx", get(|| async { "a model" }))).await;
    let site = Site::new(&["127.0.0.1"]);
    fs::remove_dir(site.dir.path().join("data/tmp")).unwrap();
    let error = site.fetch(&format!("{base}/m.onnx"), b"a model").await.unwrap_err();
    assert_eq!((error.reason(), error.retryable()), ("StoreFailed", true));
    let full = FetchError::Store(crate::store::StoreError::DiskFull { path: "a".into(), needed: 7 });
    assert_eq!((full.reason(), full.retryable()), ("DiskFull", true));
}

#[test]
fn what_is_shown_of_a_source_holds_no_secret() {
    for (uri, text) in [
        ("https://models.example/a/m.onnx?X-Signature=secret&b", "https://models.example/a/m.onnx"),
        ("http://10.0.0.7:8080/m", "http://10.0.0.7:8080/m"),
        ("file:///a/my%20m.onnx", "file:///a/my%20m.onnx"),
    ] {
        assert_eq!(shown(&SourceUri::parse(uri).unwrap()), text);
    }
    let url = Url::parse("https://user:secret@models.example/m").unwrap();
    assert_eq!(shown(&SourceUri::Https(url)), "https://models.example/m");
}
