//! HTTP/1.1 without sockets: bytes in, events and bytes out (RFC 9110, RFC 9112).
//!
//! In request order: [`head`] reads a request head ([`target`], [`path`] and [`framing`] are its parts), [`body`]
//! finds the payload inside a body, [`response`] reads what the upstream answers, [`encode`] writes both onwards,
//! remade: what one side sent is never relayed as it came, so that both sides see one message in one way; [`date`] is
//! what our own answers say of the time; [`trace`] is which trace a request belongs to; [`websocket`] is the one way out of HTTP, and [`proxy`] is what may stand in
//! front of it all; [`grpc`] is how calls are told and answered.
//!
//! It never reads a clock, opens a socket, holds unsafe code or keeps a byte that it did not bound. The common
//! request (canonical path, no trailers) is read and written without an allocation.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod head;
pub mod fields;
pub mod target;
pub mod path;
pub mod framing;
pub mod body;
pub mod response;
pub mod encode;
pub mod date;
pub mod trace;
pub mod websocket;
pub mod proxy;
pub mod grpc;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod differential_tests;

pub(crate) use body::is_token;
pub use body::{BodyDecoder, BodyError, Decoded};
pub use date::HttpDate;
pub use encode::{
    CHUNK_END, CHUNK_HEAD_BYTES_MAX, CONTINUE, Recode, RequestEdit, ResponseEdit, Rewrite, Telling,
    chunk_head, client_framing, client_response, last_chunk, last_chunk_without, max_forwards,
    push_field_line, simple_response, upstream_request,
};
pub use fields::{Fields, HEADERS_MAX, HeaderSlots};
pub use framing::{BodyLength, FramingError};
pub use grpc::{GrpcStatus, grpc_timeout, is_grpc};
pub use head::{HeadLimits, RequestError, RequestHead, Version, is_worth_a_try, request_head};
pub use path::PathError;
pub use proxy::{PROXY_HEADER_BYTES_MAX, ProxyError, ProxyVersion, Told, proxy_header, write_proxy_header};
pub use response::{ResponseError, ResponseHead, response_head, switched_head};
pub use target::is_authority;
pub use trace::{TRACE_ID_DIGITS, Trace, TraceParent};
pub use websocket::{HandshakeError, WebSocketKey, agrees, asks_for_websocket, websocket_key};
