//! The object store in S3 or a server that speaks its protocol, by the AWS SDK.
//!
//! Owns the client, its deadlines and what its errors mean. The SDK repeats a failed call a few times; a put that is repeated after a lost
//! reply finds its own object there ([`Put::Exists`]), which the caller expects. Credentials come from the SDK's chain: environment, web
//! identity of a service account, container, machine.
//!
//! Every object is one put: it appears at once or not at all, and no unfinished upload has to be looked for. So a file is at most 5 GiB;
//! RocksDB's are 64 MiB.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::config::{Region, RequestChecksumCalculation, ResponseChecksumValidation};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use checkpoint::snapshot::retention::Listed;
use checkpoint::snapshot::{JobPrefix, ObjectId};
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

use super::store::{Body, Listing, ObjectStore, Put, StoreError};
use crate::priority;

/// One try of one call; the largest of our objects passes in it at a megabyte a second.
const ATTEMPT: Duration = Duration::from_secs(90);
/// A call with all its tries.
const CALL: Duration = Duration::from_secs(240);
/// Making a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Nothing arrives of a body.
const STALL: Duration = Duration::from_secs(30);
const ATTEMPTS: u32 = 4;
/// Region of servers that have none.
const NO_REGION: &str = "us-east-1";

/// A bucket and how to reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Place {
    /// Name of the bucket.
    pub bucket: String,
    /// What all keys begin with; may be empty.
    pub prefix: String,
    /// Address of the server; `None` for AWS, or what `AWS_ENDPOINT_URL` says.
    pub endpoint: Option<String>,
    /// Region; `None` for what the environment says.
    pub region: Option<String>,
    /// `http://server/bucket/key` instead of `http://bucket.server/key`.
    pub path_style: bool,
}

impl fmt::Display for S3Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.prefix)?;
        self.endpoint.as_ref().map_or(Ok(()), |endpoint| write!(f, " at {endpoint}"))
    }
}

/// A client for a bucket, with the threads that it needs.
pub struct S3Bucket {
    place: S3Place,
    client: Client,
    runtime: Runtime,
    cancel: CancellationToken,
}

/// The objects of one job in a bucket.
pub struct S3Store {
    bucket: Arc<S3Bucket>,
    prefix: JobPrefix,
}

impl S3Bucket {
    /// Makes the client; nothing is sent yet. Every call gives up when `cancel` is cancelled.
    ///
    /// # Errors
    /// When its threads cannot be started.
    pub fn new(place: &S3Place, cancel: &CancellationToken) -> Result<Self, StoreError> {
        let mut runtime = Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).thread_name("s3").on_thread_start(priority::stand_back).enable_all();
        let runtime = runtime.build();
        let runtime = runtime.map_err(|e| StoreError::Unavailable {
            place: place.to_string(),
            action: "start the client".into(),
            message: e.to_string(),
        })?;
        let client = Client::from_conf(runtime.block_on(configure(place)));
        Ok(Self { place: place.clone(), client, runtime, cancel: cancel.clone() })
    }

    /// Runs a call on the caller's thread until it ends or this process does.
    fn wait<T>(&self, call: impl Future<Output = T>) -> Result<T, StoreError> {
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => Err(StoreError::Stopped),
                done = call => Ok(done),
            }
        })
    }

    /// All keys that begin with this, with length and time.
    ///
    /// # Errors
    /// When the bucket cannot be read.
    pub fn keys(&self, prefix: &str) -> Result<Vec<(String, u64, u64)>, StoreError> {
        let request = self.client.list_objects_v2().bucket(&self.place.bucket).prefix(prefix);
        let mut pages = request.into_paginator().send();
        let listed = self.wait(async {
            let mut out = Vec::new();
            while let Some(page) = pages.try_next().await? {
                for object in page.contents.unwrap_or_default() {
                    let modified = object.last_modified.and_then(|time| time.to_millis().ok()).unwrap_or(0);
                    let length = object.size.unwrap_or(0);
                    out.push((object.key.unwrap_or_default(), length.max(0) as u64, modified.max(0) as u64));
                }
            }
            Ok(out)
        })?;
        listed.map_err(|error| self.failed(&format!("list {prefix}"), &error))
    }

    fn failed<E>(&self, action: &str, error: &SdkError<E, HttpResponse>) -> StoreError
    where
        E: Error + ProvideErrorMetadata + 'static,
    {
        let (place, action) = (self.place.to_string(), action.to_owned());
        let status = error.raw_response().map(|response| response.status().as_u16());
        let text = match (error.code(), error.message()) {
            (Some(code), Some(message)) => format!("{code}: {message}"),
            // An answer without the words of S3: of something before the server, often.
            _ => status.map_or_else(|| causes(error), |status| format!("HTTP status {status}: {}", causes(error))),
        };
        let advice = match (error.code(), status) {
            (Some("NoSuchBucket"), _) => "create the bucket, or correct its name",
            (Some("InvalidAccessKeyId" | "SignatureDoesNotMatch"), _) => {
                "correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            }
            // Requests are signed with the time.
            (Some("RequestTimeTooSkewed"), _) => "this machine's clock is wrong: set it",
            (_, Some(301 | 307)) => "the bucket is in another region: correct it",
            (_, Some(401 | 403)) => "allow this identity to list, get, put and delete objects below the prefix",
            (_, Some(400 | 404 | 405 | 501)) => "the server does not take this request: is it an S3 server?",
            // The SDK has no type of its own for it that reaches here.
            (None, None) if text.contains("credential") => {
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the pod's service account an identity"
            }
            _ => return StoreError::Unavailable { place, action, message: text },
        };
        StoreError::Refused { place, action, message: format!("{text}; {advice}") }
    }
}

/// An error with what is behind it, for people.
fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

async fn configure(place: &S3Place) -> aws_sdk_s3::Config {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT)
        .read_timeout(STALL)
        .operation_attempt_timeout(ATTEMPT)
        .operation_timeout(CALL)
        .build();
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .timeout_config(timeouts)
        .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
        // Our own checksums cover every byte to the disk and back; many servers know the SDK's newer ones not at all.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    if let Some(endpoint) = &place.endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    match (&place.region, &place.endpoint) {
        (Some(region), _) => loader = loader.region(Region::new(region.clone())),
        // A server of one's own has no region; without one nothing can be signed, and the machine's is asked for in vain.
        (None, Some(_)) if std::env::var_os("AWS_REGION").is_none() => loader = loader.region(Region::new(NO_REGION)),
        (None, _) => {}
    }
    let shared = loader.load().await;
    aws_sdk_s3::config::Builder::from(&shared).force_path_style(place.path_style).build()
}

impl S3Store {
    /// The objects of a job.
    pub fn new(bucket: Arc<S3Bucket>, prefix: JobPrefix) -> Self {
        Self { bucket, prefix }
    }
}

impl ObjectStore for S3Store {
    fn place(&self) -> String {
        self.bucket.place.to_string()
    }

    fn key(&self, id: &ObjectId) -> String {
        format!("s3://{}/{}", self.bucket.place.bucket, self.prefix.key(id))
    }

    fn put(&self, id: &ObjectId, body: Body<'_>) -> Result<Put, StoreError> {
        let (bucket, key) = (&self.bucket, self.prefix.key(id));
        let request = bucket.client.put_object().bucket(&bucket.place.bucket).key(&key).if_none_match("*");
        let sent = bucket.wait(async {
            let body = match body {
                Body::Bytes(bytes) => ByteStream::from(bytes.to_vec()),
                Body::File(path) => ByteStream::from_path(path).await.map_err(|e| StoreError::Local {
                    action: "read",
                    path: path.to_owned(),
                    source: std::io::Error::other(e),
                })?,
            };
            Ok(request.body(body).send().await)
        })??;
        match sent {
            Ok(_) => Ok(Put::Written),
            Err(error) if error.raw_response().is_some_and(|answer| answer.status().as_u16() == 412) => Ok(Put::Exists),
            Err(error) => Err(bucket.failed(&format!("put {key}"), &error)),
        }
    }

    fn get(&self, id: &ObjectId, part: &mut dyn FnMut(&[u8]) -> std::io::Result<()>) -> Result<(), StoreError> {
        let (bucket, key) = (&self.bucket, self.prefix.key(id));
        let action = format!("get {key}");
        let sent = bucket.wait(bucket.client.get_object().bucket(&bucket.place.bucket).key(&key).send())?;
        let mut body = match sent {
            Ok(answer) => answer.body,
            Err(error) if error.code() == Some("NoSuchKey") => {
                return Err(StoreError::Missing { place: self.place(), key: self.key(id) });
            }
            Err(error) => return Err(bucket.failed(&action, &error)),
        };
        let unavailable =
            |message: String| StoreError::Unavailable { place: self.place(), action: action.clone(), message };
        loop {
            let next = bucket.wait(async { tokio::time::timeout(STALL, body.try_next()).await })?;
            match next.map_err(|_| unavailable(format!("nothing arrived for {} s", STALL.as_secs())))? {
                Ok(None) => return Ok(()),
                Ok(Some(bytes)) => part(&bytes).map_err(|source| StoreError::Local {
                    action: "write what was read from",
                    path: key.clone().into(),
                    source,
                })?,
                Err(error) => return Err(unavailable(causes(&error))),
            }
        }
    }

    fn list(&self, listing: Listing) -> Result<Vec<Listed>, StoreError> {
        let below = format!("{}{}", self.prefix.as_str(), listing.prefix());
        let object = |(key, length, modified_ms): (String, u64, u64)| {
            Some(Listed { id: self.prefix.parse(&key)?, length, modified_ms })
        };
        Ok(self.bucket.keys(&below)?.into_iter().filter_map(object).collect())
    }

    fn delete(&self, id: &ObjectId) -> Result<(), StoreError> {
        let (bucket, key) = (&self.bucket, self.prefix.key(id));
        let sent = bucket.wait(bucket.client.delete_object().bucket(&bucket.place.bucket).key(&key).send())?;
        match sent {
            Ok(_) => Ok(()),
            Err(error) if error.code() == Some("NoSuchKey") => Ok(()),
            Err(error) => Err(bucket.failed(&format!("delete {key}"), &error)),
        }
    }
}
