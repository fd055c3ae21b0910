//! What may be asked on the control port, and the answers. Every refusal is a [`Refused`] with a message for people.
//!
//! Owns paths, sizes of bodies, deadlines and status codes. Whether an order can be carried out is the job's to say (`Orders`).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use job_api::PodStatus;
use job_api::orders::{
    ASSIGNMENT_PATH, AssignmentRequest, Refused, SAVEPOINTS_PATH, STATUS_PATH, STOP_PATH, SavepointPhase,
    SavepointRequest, SavepointStatus, StopRequest, is_savepoint_name,
};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::live_settings::Denied;
use super::token::TokenError;
use super::{ControlPort, Gate, ORDER_DEADLINE};
use crate::pod::orders::{OrderError, Orders};

/// Longest body of an order; the longest real one has about a hundred bytes.
const BODY_MAX: usize = 4 * 1024;
/// A body must be here within this time.
const BODY_DEADLINE: Duration = Duration::from_secs(5);

/// An answer that is no success.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    message: String,
}

impl Refusal {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(Refused { message: self.message })).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<OrderError> for Refusal {
    fn from(error: OrderError) -> Self {
        match error {
            OrderError::Invalid { message } => Self::new(StatusCode::BAD_REQUEST, message),
            OrderError::Conflict { message } => Self::new(StatusCode::CONFLICT, message),
            OrderError::NotReady { message } => Self::new(StatusCode::SERVICE_UNAVAILABLE, message),
        }
    }
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::NoOperator => Self::new(
                StatusCode::FORBIDDEN,
                "this pod takes no orders: its settings name no operator, and the operator that wrote them knows of none",
            ),
            Denied::NoToken => Self::new(
                StatusCode::UNAUTHORIZED,
                "orders need `Authorization: Bearer` with a token of the operator's service account",
            ),
            Denied::Token(error @ TokenError::Subject) => {
                Self::new(StatusCode::FORBIDDEN, format!("the token may not give orders: {error}"))
            }
            Denied::Token(error) => Self::new(StatusCode::UNAUTHORIZED, format!("the token is not good: {error}")),
        }
    }
}

/// Whether somebody watches a savepoint that has not come to its end: a process that is about to end waits a moment until it was told.
#[derive(Debug, Default)]
pub(crate) struct Settling(Mutex<Option<Instant>>);

impl Settling {
    /// Who has not asked for so long does not watch any more.
    const WATCHING: Duration = Duration::from_secs(2);

    fn told(&self, status: &SavepointStatus) {
        let open = match status.phase {
            SavepointPhase::Draining | SavepointPhase::Uploading => Some(Instant::now()),
            SavepointPhase::Completed | SavepointPhase::Failed => None,
        };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = open;
    }

    /// True while somebody watches.
    pub(crate) fn is_watched(&self) -> bool {
        let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_some_and(|last| last.elapsed() < Self::WATCHING)
    }
}

/// All paths.
pub(super) fn router(port: Arc<ControlPort>) -> Router {
    Router::new()
        .route(STATUS_PATH, get(status))
        .route(SAVEPOINTS_PATH, post(savepoint))
        .route(&format!("{SAVEPOINTS_PATH}/{{name}}"), get(savepoint_status))
        .route(STOP_PATH, post(stop))
        .route(ASSIGNMENT_PATH, post(assignment))
        .fallback(async || unknown(StatusCode::NOT_FOUND))
        .method_not_allowed_fallback(async || unknown(StatusCode::METHOD_NOT_ALLOWED))
        .with_state(port)
}

fn unknown(status: StatusCode) -> Refusal {
    let text = format!(
        "this port has GET {STATUS_PATH}, GET {SAVEPOINTS_PATH}/NAME, and POST {SAVEPOINTS_PATH}, {STOP_PATH}, {ASSIGNMENT_PATH}"
    );
    Refusal::new(status, text)
}

type Port = State<Arc<ControlPort>>;

async fn status(State(port): Port) -> Json<PodStatus> {
    let settings_replicas = match &port.gate {
        Gate::Machine => None,
        Gate::Operator(settings) => Some(settings.replicas()),
    };
    Json(PodStatus { settings_replicas, ..port.pages.status() })
}

async fn savepoint(State(port): Port, request: Request) -> Result<(StatusCode, Json<SavepointStatus>), Refusal> {
    let order: SavepointRequest = read(&port, request).await?;
    if !is_savepoint_name(&order.name) {
        let text = "a savepoint's name is 1 to 63 of a-z, 0-9 and -, and begins and ends with a letter or digit";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, text));
    }
    tracing::info!(name = order.name, stop = order.stop, "a savepoint is ordered");
    let status = give(&port, move |orders| orders.savepoint(order)).await??;
    port.settling.told(&status);
    Ok((StatusCode::ACCEPTED, Json(status)))
}

async fn savepoint_status(
    State(port): Port,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Json<SavepointStatus>, Refusal> {
    admit(&port, &headers)?;
    let known = is_savepoint_name(&name);
    let status = if known { give(&port, move |orders| orders.savepoint_status(&name)).await? } else { None };
    let status =
        status.ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "this pod knows of no savepoint of this name"))?;
    port.settling.told(&status);
    Ok(Json(status))
}

async fn stop(State(port): Port, request: Request) -> Result<StatusCode, Refusal> {
    let order: StopRequest = read(&port, request).await?;
    tracing::info!(mode = ?order.mode, "the end of the job's work is ordered");
    give(&port, move |orders| orders.stop(order.mode)).await??;
    Ok(StatusCode::ACCEPTED)
}

async fn assignment(State(port): Port, request: Request) -> Result<StatusCode, Refusal> {
    let order: AssignmentRequest = read(&port, request).await?;
    if order.replicas == 0 {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "replicas is 0: a job that runs has a pod"));
    }
    tracing::info!(replicas = order.replicas, "an assignment is ordered");
    let done = give(&port, move |orders| orders.assign(order.replicas)).await??;
    Ok(if done { StatusCode::OK } else { StatusCode::ACCEPTED })
}

/// Lets in who may give orders.
fn admit(port: &ControlPort, headers: &HeaderMap) -> Result<(), Refusal> {
    match &port.gate {
        Gate::Machine => Ok(()),
        Gate::Operator(settings) => settings.check(bearer(headers)).map_err(|denied| {
            tracing::debug!(?denied, "an order was not let in");
            denied.into()
        }),
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The order in a request of someone who may give it. Who may not is told before anything of the body is read.
async fn read<T: DeserializeOwned>(port: &ControlPort, request: Request) -> Result<T, Refusal> {
    let (head, body) = request.into_parts();
    admit(port, &head.headers)?;
    let bytes = read_body(body).await?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, format!("the order cannot be read: {error}")))
}

async fn read_body(body: Body) -> Result<axum::body::Bytes, Refusal> {
    match timeout(BODY_DEADLINE, axum::body::to_bytes(body, BODY_MAX)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => {
            let text = format!("the order has more than {BODY_MAX} bytes, or broke off");
            Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, text))
        }
        Err(_) => Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "the order did not come in time")),
    }
}

/// Gives an order to the job, on a thread that may block, one at a time, within the deadline.
async fn give<T: Send + 'static>(
    port: &ControlPort,
    order: impl FnOnce(&dyn Orders) -> T + Send + 'static,
) -> Result<T, Refusal> {
    let late = || {
        let text = format!("the job did not answer within {} s; ask again", ORDER_DEADLINE.as_secs());
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text)
    };
    let turn = Arc::clone(&port.turn).acquire_owned();
    let turn = timeout(ORDER_DEADLINE, turn).await.map_err(|_| late())?.expect("the semaphore is never closed");
    let orders = Arc::clone(&port.orders);
    let task = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        order(orders.as_ref())
    });
    match timeout(ORDER_DEADLINE, task).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => {
            Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "taking the order failed: a bug of Millstream"))
        }
        Err(_) => Err(late()),
    }
}
