//! A setting whose feature is missing is an error that names the feature.

use ripplecast::Hub;

#[tokio::test]
async fn a_backend_without_its_feature_is_an_error_that_names_it_and_no_password() {
    let error = Hub::builder().backend("rediss://user:secret@host").connect().await.unwrap_err().to_string();
    assert!(error.contains("feature `redis`") && error.contains("rediss://"), "{error}");
    assert!(!error.contains("secret"), "{error}");
    let error = Hub::builder().backend("mongodb://host").build().unwrap_err().to_string();
    assert!(error.contains("expected memory"), "{error}");
}
