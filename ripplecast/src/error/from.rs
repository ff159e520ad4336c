//! Conversions that let a callback use `?` with errors of other libraries.

use super::Error;

/// Converts errors of the standard library and of tokio into [`Error::Other`].
macro_rules! from {
    ($($error:ty),+ $(,)?) => {$(
        impl From<$error> for Error {
            fn from(error: $error) -> Self {
                Self::other(error)
            }
        }
    )+};
}

from! {
    std::array::TryFromSliceError,
    std::char::CharTryFromError,
    std::char::ParseCharError,
    std::env::VarError,
    std::ffi::NulError,
    std::fmt::Error,
    std::net::AddrParseError,
    std::num::ParseFloatError,
    std::num::ParseIntError,
    std::num::TryFromIntError,
    std::str::ParseBoolError,
    std::str::Utf8Error,
    std::string::FromUtf16Error,
    std::string::FromUtf8Error,
    std::time::SystemTimeError,
    tokio::sync::oneshot::error::RecvError,
    tokio::task::JoinError,
    tokio::time::error::Elapsed,
}

/// Keeps an [`Error`] that was boxed as itself. Any other becomes [`Error::Other`].
impl From<Box<dyn std::error::Error + Send + Sync>> for Error {
    fn from(error: Box<dyn std::error::Error + Send + Sync>) -> Self {
        error.downcast().map_or_else(Self::Other, |error: Box<Self>| *error)
    }
}

/// Keeps an [`Error`] that was converted as itself. Any other becomes [`Error::Other`].
#[cfg(feature = "anyhow")]
#[cfg_attr(docsrs, doc(cfg(feature = "anyhow")))]
impl From<anyhow::Error> for Error {
    fn from(error: anyhow::Error) -> Self {
        // `downcast` also finds an error below a context, and would drop the context.
        let outermost = error.chain().next();
        if let Some(true) = outermost.map(|error| error.downcast_ref::<Self>().is_some()) {
            return error.downcast().unwrap_or_else(|error| Self::Other(error.into()));
        }
        Self::Other(error.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::BackendError;

    fn backend() -> Error {
        BackendError::Unavailable { reason: "it is restarting".into() }.into()
    }

    #[test]
    fn question_marks_convert_common_errors() {
        fn number(text: &str) -> Result<u8, Error> {
            Ok(text.parse()?)
        }
        assert_eq!(number("7").unwrap(), 7);
        let error = number("300").unwrap_err();
        assert!(matches!(&error, Error::Other(inner) if inner.is::<std::num::ParseIntError>()), "{error:?}");

        fn boxed(fail: bool) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
            if fail { Err("no such order")? } else { Err(backend())? }
        }
        let of = |fail| -> Result<(), Error> { Ok(boxed(fail)?) };
        assert_eq!(format!("{:?}", of(true).unwrap_err()), "Other: no such order");
        assert!(matches!(of(false).unwrap_err(), Error::Backend(_)), "an error of ours is kept as itself");
    }

    #[cfg(feature = "anyhow")]
    #[test]
    fn an_error_inside_anyhow_is_found() {
        use anyhow::Context as _;

        let plain: Error = anyhow::Error::new(backend()).into();
        assert!(matches!(plain, Error::Backend(_)));
        let context = Err::<(), _>(backend()).context("can't save the order").context("can't buy");
        let error: Error = context.unwrap_err().into();
        assert!(error.is_unavailable(), "{error:?}");
        assert!(
            format!("{error:?}")
                .starts_with("Other: can't buy: can't save the order: the backend is unavailable")
        );
    }
}
