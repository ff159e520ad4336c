//! Certificates and keys from files, and their reload.

use super::*;

#[test]
fn a_new_certificate_applies_only_to_new_connections() {
    let site = Secure::start();
    let mut old = site.connect();
    check_echo(&mut old);
    assert_eq!(certificate(old.get_ref()), site.first.der);

    // At once after a reload. The client has cached its session and must still receive the new certificate.
    let second = site.authority.issue();
    site.dir.put_pair(&second);
    site.reload().unwrap();
    let mut newer = site.connect();
    assert_eq!(certificate(newer.get_ref()), second.der);
    check_echo(&mut old);

    // Automatically, a little later.
    let third = site.authority.issue();
    site.dir.put_pair(&third);
    eventually("the third certificate", || certificate(&site.dial()) == third.der);
    for client in [&mut old, &mut newer] {
        check_echo(client);
    }
    assert_eq!(certificate(old.get_ref()), site.first.der);
    drop((old, newer));
    site.stop();
}

#[test]
fn a_broken_new_certificate_keeps_the_old_one() {
    let site = Secure::start();
    let mut old = site.connect();
    let other = site.authority.issue();
    let broken: [(&str, &str, &str); 4] = [
        ("cert.pem", "nothing", "no certificate"),
        ("cert.pem", &other.cert, "not the key of the certificate"),
        ("key.pem", "", "no private key"),
        ("key.pem", &other.key, "not the key of the certificate"),
    ];
    for (name, content, reason) in broken {
        site.dir.put_pair(&site.first);
        site.dir.put(name, content);
        let error = site.reload().unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
        assert_eq!(certificate(&site.dial()), site.first.der, "{name}: {content}");
        check_echo(&mut old);
    }
    std::fs::remove_file(site.dir.file("key.pem")).unwrap();
    assert!(site.reload().unwrap_err().to_string().contains("does not exist"));
    assert_eq!(certificate(&site.dial()), site.first.der);
    // Correct files are accepted again.
    site.dir.put_pair(&other);
    site.reload().unwrap();
    assert_eq!(certificate(&site.dial()), other.der);
    drop(old);
    site.stop();
}

/// Returns the one-line error of starting a server with these files.
fn mistake(cert: &Path, key: &Path) -> String {
    let runtime = Runtime::new().unwrap();
    let error = runtime.block_on(App::builder().tls(cert, key).build()).unwrap_err();
    assert!(matches!(error, Error::Setting { .. }), "{error:?}");
    let said = error.to_string();
    assert!(!said.contains('\n'), "{said}");
    said
}

#[test]
fn unusable_files_fail_the_start_with_one_line_that_names_them() {
    let (dir, authority) = (Dir::new(), CertAuthority::new());
    let (pair, other) = (authority.issue(), authority.issue());
    let cert = dir.put("cert.pem", &pair.cert);
    let key = dir.put("key.pem", &pair.key);
    let missing = dir.file("missing.pem");
    let empty = dir.put("empty.pem", "");
    let text = dir.put("text.pem", "This is no certificate.\n");
    let cut = dir.put("cut.pem", &pair.cert[..100]);
    let garbled = dir.put("garbled.pem", pair.cert.replacen("MI", "!!", 1));
    let no_der = dir.put("no-der.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let no_key = dir.put("no-key.pem", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    let locked = pair.key.replace("PRIVATE", "ENCRYPTED PRIVATE");
    let locked = dir.put("locked.pem", locked);
    let long = dir.put("long.pem", vec![b' '; 2 << 20]);
    let other_key = dir.put("other-key.pem", &other.key);

    // The certificate, its key, the file named in the error, and the error.
    let cases = [
        (&missing, &key, &missing, "tls_cert: the file does not exist"),
        (&cert, &missing, &missing, "tls_key: the file does not exist"),
        (&dir.file(""), &key, &dir.file(""), "tls_cert: can't read the file"),
        (&empty, &key, &empty, "tls_cert: it contains no certificate"),
        (&text, &key, &text, "tls_cert: it contains no certificate"),
        (&key, &cert, &key, "tls_cert: it contains a key but no certificate"),
        (&cut, &key, &cut, "tls_cert: not valid PEM"),
        (&garbled, &key, &garbled, "tls_cert: not valid PEM"),
        (&no_der, &key, &no_der, "tls_cert: its certificate can't be used"),
        (&long, &key, &long, "tls_cert: not a certificate or key: it is longer than"),
        (&cert, &empty, &empty, "tls_key: it contains no private key"),
        (&cert, &cert, &cert, "tls_key: it contains no private key"),
        (&cert, &locked, &locked, "tls_key: its private key is encrypted"),
        (&cert, &no_key, &no_key, "tls_key: its key can't be used"),
        (&cert, &other_key, &other_key, "tls_key: it is not the key of the certificate in"),
    ];
    for (cert, key, named, reason) in cases {
        let said = mistake(cert, key);
        assert!(said.contains(reason), "{said}");
        assert!(said.contains(&format!("{:?}", named.display().to_string())), "{said}");
    }
}

#[test]
fn one_file_may_hold_both_and_the_key_may_be_in_sec_1() {
    let (dir, authority) = (Dir::new(), CertAuthority::new());
    let pair = authority.issue();
    let both = dir.put("both.pem", format!("{}{}", pair.cert, pair.key));
    let runtime = Runtime::new().unwrap();
    let app = runtime.block_on(App::builder().tls(&both, &both).build()).unwrap();
    assert!(app.tls().is_some());
    assert!(runtime.block_on(App::builder().build()).unwrap().tls().is_none());

    // PKCS #8 wraps SEC 1: a sequence that starts with the version 1 and a key of 32 bytes.
    let key = KeyPair::generate().unwrap();
    let pkcs8 = key.serialize_der();
    let inside = pkcs8.windows(5).position(|bytes| bytes == [2, 1, 1, 4, 32]).unwrap() - 2;
    let len = 2 + usize::from(pkcs8[inside + 1]);
    let base64 = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, &pkcs8[inside..inside + len]);
    let sec1 = dir
        .put("sec1.pem", format!("-----BEGIN EC PRIVATE KEY-----\n{base64}\n-----END EC PRIVATE KEY-----\n"));
    let cert =
        CertificateParams::new(["localhost".to_owned()]).unwrap().signed_by(&key, &authority.0).unwrap();
    let cert = dir.put("cert.pem", cert.pem());
    let app = runtime.block_on(App::builder().tls(cert, sec1).build()).unwrap();
    assert!(app.tls().is_some());
}

#[test]
fn the_error_names_the_missing_one_of_two_variables() {
    const CHILD: &str = "RIPPLECAST_TEST_TLS_CHILD";
    if std::env::var_os(CHILD).is_some() {
        let runtime = Runtime::new().unwrap();
        let said = match runtime.block_on(App::from_env()) {
            Ok(app) => format!("tls: {}", app.tls().is_some()),
            Err(error) => error.to_string(),
        };
        println!("said: {said}");
        // Settings in code take precedence.
        let dir = Dir::new();
        let pair = CertAuthority::new().issue();
        dir.put_pair(&pair);
        let builder = AppBuilder::from_env().unwrap().tls(dir.file("cert.pem"), dir.file("key.pem"));
        assert!(runtime.block_on(builder.build()).unwrap().tls().is_some());
        return;
    }
    let dir = Dir::new();
    let pair = CertAuthority::new().issue();
    dir.put_pair(&pair);
    let (cert, key) = (dir.file("cert.pem").display().to_string(), dir.file("key.pem").display().to_string());
    let missing = dir.file("missing.pem").display().to_string();
    let cases = [
        (cert.as_str(), "", "setting RIPPLECAST_TLS_KEY: not set, but RIPPLECAST_TLS_CERT is"),
        ("", key.as_str(), "setting RIPPLECAST_TLS_CERT: not set, but RIPPLECAST_TLS_KEY is"),
        (&missing, &key, "setting RIPPLECAST_TLS_CERT: the file does not exist"),
        (&cert, &missing, "setting RIPPLECAST_TLS_KEY: the file does not exist"),
        (&cert, &key, "tls: true"),
        ("", "", "tls: false"),
    ];
    for (cert, key, expected) in cases {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tls::files::the_error_names_the_missing_one_of_two_variables", "--nocapture"])
            .env(CHILD, "1")
            .env("RIPPLECAST_TLS_CERT", cert)
            .env("RIPPLECAST_TLS_KEY", key)
            .output()
            .unwrap();
        let out = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{out}");
        assert!(out.contains(&format!("said: {expected}")), "{cert:?} {key:?}: {out}");
    }
}
