/** The errors of the suite: one class for each gRPC code, with the reason and the fields that the server sent. */
import { type Metadata, type ServiceError, status } from "@grpc/grpc-js";

import { BadRequest, ErrorInfo, RetryInfo } from "./gen/google/rpc/error_details.js";
import { Status } from "./gen/google/rpc/status.js";

const DETAILS = "grpc-status-details-bin";

/** What the server says about a failed call beside its message. */
export interface ErrorFacts {
  /** A value of `hedgerow.errors.v1.ErrorReason` without its prefix; empty when the failure did not come from the suite. */
  reason?: string;
  metadata?: Record<string, string>;
  /** What is wrong with each field of the request, by its path. */
  fields?: Record<string, string>;
  /** Seconds to wait before another try. */
  retryAfter?: number;
}

/** A call that failed. */
export class HedgerowError extends Error {
  readonly reason: string;
  readonly metadata: Readonly<Record<string, string>>;
  readonly fields: Readonly<Record<string, string>>;
  readonly retryAfter: number | undefined;

  constructor(
    /** The gRPC code, such as `NOT_FOUND`. */
    readonly code: string,
    message: string,
    facts: ErrorFacts = {},
  ) {
    super(message);
    this.name = new.target.name;
    this.reason = facts.reason ?? "";
    this.metadata = facts.metadata ?? {};
    this.fields = facts.fields ?? {};
    this.retryAfter = facts.retryAfter;
  }
}

export class InvalidArgumentError extends HedgerowError {}
export class NotFoundError extends HedgerowError {}
export class AlreadyExistsError extends HedgerowError {}
export class FailedPreconditionError extends HedgerowError {}
export class PermissionDeniedError extends HedgerowError {}
export class UnauthenticatedError extends HedgerowError {}
export class ResourceExhaustedError extends HedgerowError {}
export class UnavailableError extends HedgerowError {}
export class AbortedError extends HedgerowError {}
export class DataLossError extends HedgerowError {}
export class CallCancelledError extends HedgerowError {}
export class DeadlineExceededError extends HedgerowError {}
export class UnimplementedError extends HedgerowError {}
export class InternalError extends HedgerowError {}

const CLASSES: Readonly<Record<string, typeof HedgerowError>> = {
  INVALID_ARGUMENT: InvalidArgumentError,
  NOT_FOUND: NotFoundError,
  ALREADY_EXISTS: AlreadyExistsError,
  FAILED_PRECONDITION: FailedPreconditionError,
  PERMISSION_DENIED: PermissionDeniedError,
  UNAUTHENTICATED: UnauthenticatedError,
  RESOURCE_EXHAUSTED: ResourceExhaustedError,
  UNAVAILABLE: UnavailableError,
  ABORTED: AbortedError,
  DATA_LOSS: DataLossError,
  CANCELLED: CallCancelledError,
  DEADLINE_EXCEEDED: DeadlineExceededError,
  UNIMPLEMENTED: UnimplementedError,
};

/** Returns the typed error behind a failed call; a code that the suite does not use is an `InternalError`. */
export function fromServiceError(error: ServiceError): HedgerowError {
  const code = status[error.code] ?? "UNKNOWN";
  const make = CLASSES[code] ?? InternalError;
  const raw = (error.metadata as Metadata | undefined)?.get(DETAILS)[0];
  if (!Buffer.isBuffer(raw)) {
    return new make(code, error.details || error.message);
  }
  const sent = Status.decode(raw);
  return new make(code, sent.message || error.details, factsOf(sent));
}

function factsOf(sent: Status): ErrorFacts {
  const facts: ErrorFacts = {};
  for (const { typeUrl, value } of sent.details) {
    switch (typeUrl.slice(typeUrl.lastIndexOf("/") + 1)) {
      case "google.rpc.ErrorInfo": {
        const info = ErrorInfo.decode(value);
        facts.reason = info.reason;
        facts.metadata = info.metadata;
        break;
      }
      case "google.rpc.BadRequest":
        facts.fields = Object.fromEntries(
          BadRequest.decode(value).fieldViolations.map((violation) => [violation.field, violation.description]),
        );
        break;
      case "google.rpc.RetryInfo": {
        const delay = RetryInfo.decode(value).retryDelay;
        facts.retryAfter = delay && Number(delay.seconds) + delay.nanos / 1e9;
        break;
      }
    }
  }
  return facts;
}
