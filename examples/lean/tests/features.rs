//! A setting whose feature is missing is an error that names the feature. `cargo xtask test --only features` runs these
//! tests without any feature, with `server`, and with `redis`.

use ripplecast::Hub;

/// Returns the error for a backend.
async fn error(backend: &str) -> String {
    Hub::builder().backend(backend).connect().await.unwrap_err().to_string()
}

#[cfg(not(feature = "redis"))]
#[tokio::test]
async fn a_backend_without_its_feature_is_an_error_that_names_it_and_no_password() {
    let urls =
        ["redis://user:secret@host", "rediss://user:secret@host", "valkey-cluster://user:secret@host,other"];
    for url in urls {
        let error = error(url).await;
        let (scheme, _) = url.split_once("://").unwrap();
        assert!(
            error.contains(r#"features = ["redis"]"#) && error.contains(&format!("{scheme}://")),
            "{error}"
        );
        assert!(!error.contains("secret"), "{error}");
    }
    let error = Hub::builder().backend("mongodb://host").build().unwrap_err().to_string();
    assert!(error.contains("expected memory"), "{error}");
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn tls_to_redis_without_its_feature_is_an_error_that_names_it_and_no_password() {
    let urls = [
        "rediss://user:secret@host",
        "valkeys://user:secret@host",
        "rediss-cluster://user:secret@host,other",
        "rediss-sentinel://user:secret@host/master",
    ];
    for url in urls {
        let error = error(url).await;
        assert!(error.contains(r#"features = ["redis", "tls"]"#) && error.contains("host"), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
}

/// The environment belongs to the whole process, so each case runs in a child process.
#[cfg(feature = "server")]
mod environment {
    use std::process::Command;

    use ripplecast::App;

    /// Set in a child process.
    const CHILD: &str = "RIPPLECAST_TEST_CHILD";

    /// Returns the error of a child process with these variables.
    fn error(variables: &[(&str, &str)]) -> String {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "environment::the_child", "--nocapture"]);
        let output = child.env(CHILD, "1").envs(variables.iter().copied()).output().unwrap();
        let output = String::from_utf8(output.stdout).unwrap();
        let error = output.lines().find_map(|line| line.split_once("error: ")).expect(&output);
        error.1.to_owned()
    }

    #[tokio::test]
    async fn the_child() {
        if std::env::var_os(CHILD).is_some() {
            println!("error: {}", App::from_env().await.unwrap_err());
        }
    }

    #[test]
    fn a_certificate_without_its_feature_is_an_error_that_names_both() {
        let error = error(&[("RIPPLECAST_TLS_CERT", "cert.pem"), ("RIPPLECAST_TLS_KEY", "key.pem")]);
        assert!(error.contains("RIPPLECAST_TLS_CERT") && error.contains("cert.pem"), "{error}");
        assert!(error.contains(r#"features = ["tls"]"#), "{error}");
    }

    #[test]
    fn a_backend_without_its_feature_is_an_error_that_names_both() {
        let error = error(&[("RIPPLECAST_BACKEND", "redis://user:secret@host")]);
        assert!(error.contains("RIPPLECAST_BACKEND") && !error.contains("secret"), "{error}");
        assert!(error.contains(r#"features = ["redis"]"#), "{error}");
    }
}
