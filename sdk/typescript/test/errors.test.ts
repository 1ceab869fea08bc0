import assert from "node:assert/strict";
import { test } from "node:test";

import { Metadata, type ServiceError, status } from "@grpc/grpc-js";

import { fromServiceError, HedgerowError, InternalError, InvalidArgumentError, UnavailableError } from "../src/errors.js";
import { BadRequest, ErrorInfo, RetryInfo } from "../src/gen/google/rpc/error_details.js";
import { Status } from "../src/gen/google/rpc/status.js";

function failure(code: status, details: string, sent?: Uint8Array): ServiceError {
  const metadata = new Metadata();
  if (sent) {
    metadata.set("grpc-status-details-bin", Buffer.from(sent));
  }
  return Object.assign(new Error(details), { code, details, metadata });
}

function packed(name: string, value: Uint8Array) {
  return { typeUrl: `type.googleapis.com/google.rpc.${name}`, value: Buffer.from(value) };
}

test("a status becomes the typed error with reason, fields and when to try again", () => {
  const sent = Status.encode({
    code: status.INVALID_ARGUMENT,
    message: "name is wrong",
    details: [
      packed("ErrorInfo", ErrorInfo.encode({ reason: "FIELD_INVALID", domain: "hedgerow.dev", metadata: { a: "b" } }).finish()),
      packed(
        "BadRequest",
        BadRequest.encode(
          BadRequest.fromPartial({ fieldViolations: [{ field: "name", description: "expected datasets/{dataset}" }] }),
        ).finish(),
      ),
      packed("RetryInfo", RetryInfo.encode({ retryDelay: { seconds: 1n, nanos: 500_000_000 } }).finish()),
    ],
  }).finish();
  const error = fromServiceError(failure(status.INVALID_ARGUMENT, "cut", sent));
  assert.ok(error instanceof InvalidArgumentError);
  assert.equal(error.name, "InvalidArgumentError");
  assert.deepEqual(
    [error.code, error.message, error.reason, error.metadata, error.fields, error.retryAfter],
    ["INVALID_ARGUMENT", "name is wrong", "FIELD_INVALID", { a: "b" }, { name: "expected datasets/{dataset}" }, 1.5],
  );
});

test("a failure without details has the class of its code", () => {
  const error = fromServiceError(failure(status.UNAVAILABLE, "no connection"));
  assert.ok(error instanceof UnavailableError && error instanceof HedgerowError);
  assert.deepEqual([error.code, error.reason, error.retryAfter], ["UNAVAILABLE", "", undefined]);
  assert.ok(fromServiceError(failure(status.UNKNOWN, "odd")) instanceof InternalError);
});
