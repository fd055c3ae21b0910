//! One blocking connection to a broker for a few small requests: TCP, TLS if asked for, SASL PLAIN if asked for, framed messages.
//!
//! Owns bytes on the wire and their deadlines. It knows no request's meaning.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::{RequestHeader, ResponseHeader, SaslAuthenticateRequest, SaslHandshakeRequest};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::{FenceError, plain, refused, text};
use crate::kafka::properties::KafkaProperties;

/// Both answers that we ask for are small; more than this is not an answer.
const LONGEST_ANSWER: usize = 1 << 20;
const SASL_HANDSHAKE: i16 = 1;
const SASL_AUTHENTICATE: i16 = 2;

/// How a listener wants to be talked to.
pub(super) struct Security {
    tls: Option<Arc<ClientConfig>>,
    login: Option<Bytes>,
}

impl Security {
    /// As the table's properties say.
    pub(super) fn of(properties: &KafkaProperties) -> Result<Self, FenceError> {
        let protocol = properties.get("security.protocol").unwrap_or("plaintext").to_ascii_lowercase();
        let login = if protocol.starts_with("sasl") { Some(login(properties)?) } else { None };
        let tls = if protocol.ends_with("ssl") { Some(tls(properties)?) } else { None };
        Ok(Self { tls, login })
    }
}

fn login(properties: &KafkaProperties) -> Result<Bytes, FenceError> {
    match properties.get("sasl.mechanisms") {
        Some("PLAIN") => Ok(plain(
            properties.get("sasl.username").unwrap_or_default(),
            properties.get("sasl.password").unwrap_or_default(),
        )),
        Some(_) | None => Err(FenceError::LeftToClient("a SASL mechanism other than PLAIN")),
    }
}

fn tls(properties: &KafkaProperties) -> Result<Arc<ClientConfig>, FenceError> {
    let bad = |what: &str, reason: String| FenceError::Connection { broker: what.into(), reason };
    let Some(authorities) = properties.get("ssl.ca.pem") else {
        return Err(FenceError::LeftToClient("trust in the machine's certificates"));
    };
    if properties.get("ssl.key.password").is_some() {
        return Err(FenceError::LeftToClient("an encrypted private key"));
    }
    if properties.get("ssl.endpoint.identification.algorithm").is_some_and(|name| name != "https") {
        return Err(FenceError::LeftToClient("a certificate for another name"));
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(authorities.as_bytes()).flatten());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| bad("TLS", e.to_string()))?
        .with_root_certificates(roots);
    let config = match (properties.get("ssl.certificate.pem"), properties.get("ssl.key.pem")) {
        (Some(chain), Some(key)) => {
            let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).flatten().collect();
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
                .map_err(|e| bad("properties.ssl.key.pem", e.to_string()))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|e| bad("properties.ssl.certificate.pem", e.to_string()))?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => &stream.sock,
        }
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Plain(socket) => socket.write_all(bytes),
            Self::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        }
    }

    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<()> {
        match self {
            Self::Plain(socket) => socket.read_exact(bytes),
            Self::Tls(stream) => stream.read_exact(bytes),
        }
    }
}

/// See the module's documentation.
pub(super) struct Connection {
    broker: String,
    stream: Stream,
    end: Instant,
    correlation: i32,
}

impl Connection {
    /// Connects and logs in.
    pub(super) fn open(broker: &str, security: &Security, end: Instant) -> Result<Self, FenceError> {
        let failed = |reason: String| FenceError::Connection { broker: broker.to_owned(), reason };
        let address = broker
            .to_socket_addrs()
            .map_err(|e| failed(e.to_string()))?
            .next()
            .ok_or_else(|| failed("the name has no address".into()))?;
        let socket = TcpStream::connect_timeout(&address, left(end)).map_err(|e| failed(e.to_string()))?;
        socket.set_nodelay(true).map_err(|e| failed(e.to_string()))?;
        let stream = match &security.tls {
            None => Stream::Plain(socket),
            Some(config) => {
                let host = broker.rsplit_once(':').map_or(broker, |(host, _)| host).trim_matches(['[', ']']);
                let name = ServerName::try_from(host.to_owned()).map_err(|e| failed(e.to_string()))?;
                let session = ClientConnection::new(Arc::clone(config), name).map_err(|e| failed(e.to_string()))?;
                Stream::Tls(Box::new(StreamOwned::new(session, socket)))
            }
        };
        let mut connection = Self { broker: broker.to_owned(), stream, end, correlation: 0 };
        if let Some(login) = &security.login {
            connection.login(login.clone())?;
        }
        Ok(connection)
    }

    fn login(&mut self, login: Bytes) -> Result<(), FenceError> {
        let handshake = SaslHandshakeRequest::default().with_mechanism(text("PLAIN"));
        let answer = self.call(&handshake, SASL_HANDSHAKE)?;
        if let Some(error) = ResponseError::try_from_code(answer.error_code) {
            return Err(refused("SaslHandshake", error, None));
        }
        let request = SaslAuthenticateRequest::default().with_auth_bytes(login);
        let answer = self.call(&request, SASL_AUTHENTICATE)?;
        match ResponseError::try_from_code(answer.error_code) {
            Some(error) => Err(refused("SaslAuthenticate", error, answer.error_message)),
            None => Ok(()),
        }
    }

    /// Sends a request and waits for its answer.
    pub(super) fn call<R: Request>(&mut self, request: &R, version: i16) -> Result<R::Response, FenceError> {
        let broker = self.broker.clone();
        self.exchange(request, version).map_err(|reason| FenceError::Connection { broker, reason: reason.to_string() })
    }

    fn exchange<R: Request>(&mut self, request: &R, version: i16) -> anyhow::Result<R::Response> {
        self.correlation += 1;
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation)
            .with_client_id(Some(text("millstream")));
        let mut body = BytesMut::new();
        header.encode(&mut body, R::header_version(version))?;
        request.encode(&mut body, version)?;
        let mut frame = BytesMut::with_capacity(body.len() + 4);
        frame.put_u32(u32::try_from(body.len())?);
        frame.extend_from_slice(&body);
        self.stream.socket().set_write_timeout(Some(left(self.end)))?;
        self.stream.socket().set_read_timeout(Some(left(self.end)))?;
        self.stream.write(&frame)?;
        let mut length = [0; 4];
        self.stream.read(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        anyhow::ensure!(length <= LONGEST_ANSWER, "an answer of {length} bytes");
        let mut answer = vec![0; length];
        self.stream.read(&mut answer)?;
        let mut answer = Bytes::from(answer);
        let header = ResponseHeader::decode(&mut answer, R::Response::header_version(version))?;
        anyhow::ensure!(header.correlation_id == self.correlation, "an answer to another request");
        let response = R::Response::decode(&mut answer, version)?;
        anyhow::ensure!(!answer.has_remaining(), "an answer with more than it should have");
        Ok(response)
    }
}

/// What is left until `end`; never zero, which sockets take for "for ever".
fn left(end: Instant) -> Duration {
    end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}
