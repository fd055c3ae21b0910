//! The pod's certificate: made at its start, by itself, and kept in memory only.
//!
//! It encrypts. It proves nothing to the operator: nobody vouches for it (see decision 0013), which is why a token is worth something for one
//! job only. The token is checked elsewhere.

use std::sync::Arc;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;
use tokio_rustls::rustls::{self, ServerConfig};

/// The name in the certificate. Nobody checks it.
const NAME: &str = "millstream-pod";

/// No certificate could be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    /// No key, or no signature.
    #[error(transparent)]
    Made(#[from] rcgen::Error),
    /// The TLS library does not take it.
    #[error(transparent)]
    Refused(#[from] rustls::Error),
}

/// What does the handshakes of a port.
pub(super) fn acceptor() -> Result<TlsAcceptor, CertificateError> {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(vec![NAME.to_owned()])?;
    let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key.into())?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
