/** A typed client made from a generated service definition: deadlines always, typed errors, retries where they are safe. */
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";

import { Metadata, type ServiceError } from "@grpc/grpc-js";

import type { RotatingChannel } from "./channel.js";
import { CallCancelledError, fromServiceError, HedgerowError, UnavailableError } from "./errors.js";
import type { RetryBudget } from "./retry.js";

const READ_SECONDS = 30;
const WRITE_SECONDS = 120;
const STREAM_SECONDS = 1_800;
const ATTEMPTS = 4;

type Plain = Date | Uint8Array | bigint | string | number | boolean | undefined;
/** A message of which any field may be left out. */
export type Partially<T> = T extends Plain
  ? T
  : T extends (infer Item)[]
    ? Partially<Item>[]
    : { [Key in keyof T]?: Partially<T[Key]> };

interface Codec<T> {
  encode(message: T): { finish(): Uint8Array };
  decode(bytes: Uint8Array): T;
  fromPartial(message: never): T;
}

interface Method {
  readonly name: string;
  readonly requestType: Codec<any>;
  readonly requestStream: boolean;
  readonly responseType: Codec<any>;
  readonly responseStream: boolean;
  readonly options: { readonly idempotencyLevel?: string };
}

/** A service as ts-proto generates it with `outputServices=generic-definitions`. */
export interface ServiceDefinition {
  readonly fullName: string;
  readonly methods: Readonly<Record<string, Method>>;
}

/** What a call may set. */
export interface CallOptions {
  /** Seconds until the deadline, over all attempts: 30 for reads, 120 for writes and 1,800 for streams unless set. */
  timeout?: number;
  /** Why the data is wanted, in place of the connection's purpose. */
  purpose?: string;
  /** Finds the call in logs and in the audit trail; made up when not set. */
  requestId?: string;
  /** Cancels the call; one that is aborted already keeps it from being made. */
  signal?: AbortSignal;
}

type MessageOf<C> = C extends { decode(...arguments_: any[]): infer T } ? T : never;
type Sent<M extends Method> = Partially<MessageOf<M["requestType"]>>;
type Received<M extends Method> = MessageOf<M["responseType"]>;

type Call<M extends Method> = M["requestStream"] extends true
  ? (requests: AsyncIterable<Sent<M>> | Iterable<Sent<M>>, options?: CallOptions) => Promise<Received<M>>
  : M["responseStream"] extends true
    ? (request: Sent<M>, options?: CallOptions) => AsyncGenerator<Received<M>, void, undefined>
    : (request: Sent<M>, options?: CallOptions) => Promise<Received<M>>;

/** Every RPC of a service as a method. */
export type ServiceClient<D extends ServiceDefinition> = { readonly [Name in keyof D["methods"]]: Call<D["methods"][Name]> };

/** Returns a client of a service on a channel. */
export function serviceClient<D extends ServiceDefinition>(
  definition: D,
  channel: RotatingChannel,
  budget: RetryBudget,
  purpose: string,
): ServiceClient<D> {
  const calls = Object.entries(definition.methods).map(([name, method]) => {
    const rpc = new Rpc(`/${definition.fullName}/${method.name}`, method, channel, budget, purpose);
    return [name, method.requestStream ? rpc.send : method.responseStream ? rpc.stream : rpc.unary];
  });
  return Object.fromEntries(calls) as ServiceClient<D>;
}

class Rpc {
  constructor(
    private readonly path: string,
    private readonly method: Method,
    private readonly channel: RotatingChannel,
    private readonly budget: RetryBudget,
    private readonly purpose: string,
  ) {}

  /** One request, one answer; tried again on UNAVAILABLE where the contract calls it safe or a request id makes it so. */
  readonly unary = async (request: any, options: CallOptions = {}): Promise<unknown> => {
    const safe = this.isSafe || Boolean(request.requestId);
    const metadata = this.metadata(options);
    const deadline = this.deadline(options, this.isSafe ? READ_SECONDS : WRITE_SECONDS);
    for (let attempt = 0; ; attempt += 1) {
      try {
        const answer = await this.once(request, metadata, deadline, options.signal);
        this.budget.succeeded();
        return answer;
      } catch (error) {
        if (!(error instanceof UnavailableError)) {
          throw error;
        }
        const backoff = 100 * 2 ** attempt * (0.5 + Math.random() / 2);
        const pause = Math.max(backoff, (error.retryAfter ?? 0) * 1_000);
        const affordable = this.budget.failed();
        if (!safe || !affordable || attempt + 1 === ATTEMPTS || Date.now() + pause >= deadline) {
          throw error;
        }
        await sleep(pause, undefined, { signal: options.signal }).catch(() => {
          throw cancelled();
        });
      }
    }
  };

  /** One request, many answers; leaving the loop early cancels the call. */
  readonly stream = async function* (this: Rpc, request: any, options: CallOptions = {}): AsyncGenerator<unknown, void> {
    throwIfAborted(options.signal);
    const call = this.channel
      .current()
      .makeServerStreamRequest(this.path, this.encode, this.decode, request, this.metadata(options), {
        deadline: this.deadline(options, STREAM_SECONDS),
      });
    const forget = onAbort(options.signal, () => call.cancel());
    try {
      yield* call;
    } catch (error) {
      throw typed(error);
    } finally {
      forget();
      call.cancel();
    }
  }.bind(this);

  /** Many requests, one answer; never tried again, because the requests are gone. */
  readonly send = async (
    requests: AsyncIterable<unknown> | Iterable<unknown>,
    options: CallOptions = {},
  ): Promise<unknown> => {
    throwIfAborted(options.signal);
    let call: ReturnType<ReturnType<RotatingChannel["current"]>["makeClientStreamRequest"]> | undefined;
    const answer = new Promise<unknown>((resolve, reject) => {
      call = this.channel
        .current()
        .makeClientStreamRequest(
          this.path,
          this.encode,
          this.decode,
          this.metadata(options),
          { deadline: this.deadline(options, WRITE_SECONDS) },
          (error, value) => (error ? reject(typed(error)) : resolve(value)),
        );
    });
    const forget = onAbort(options.signal, () => call?.cancel());
    const sending = this.write(call!, requests);
    // A server may refuse before all is sent, so its answer counts; what the caller's iterator throws ends the call.
    await Promise.race([answer, sending.then(() => answer)]).finally(() => {
      forget();
      call?.cancel();
    });
    return answer;
  };

  private async write(call: any, requests: AsyncIterable<unknown> | Iterable<unknown>): Promise<void> {
    for await (const request of requests) {
      if (call.destroyed || call.writableEnded) {
        return;
      }
      if (!call.write(request)) {
        await new Promise<void>((resolve) => {
          call.once("drain", resolve);
          call.once("close", resolve);
          call.once("status", () => resolve());
        });
      }
    }
    call.end();
  }

  private once(request: unknown, metadata: Metadata, deadline: number, signal?: AbortSignal): Promise<unknown> {
    return new Promise((resolve, reject) => {
      throwIfAborted(signal);
      const call = this.channel
        .current()
        .makeUnaryRequest(this.path, this.encode, this.decode, request, metadata, { deadline }, (error, value) => {
          forget();
          if (error) {
            reject(fromServiceError(error));
          } else {
            resolve(value);
          }
        });
      const forget = onAbort(signal, () => call.cancel());
    });
  }

  private get isSafe(): boolean {
    return this.method.options.idempotencyLevel !== undefined;
  }

  private deadline(options: CallOptions, seconds: number): number {
    return Date.now() + (options.timeout ?? seconds) * 1_000;
  }

  private metadata(options: CallOptions): Metadata {
    const metadata = new Metadata();
    metadata.set("hedgerow-request-id", options.requestId ?? randomUUID().replaceAll("-", ""));
    const purpose = options.purpose ?? this.purpose;
    if (purpose !== "") {
      metadata.set("hedgerow-purpose", purpose);
    }
    return metadata;
  }

  private readonly encode = (request: unknown): Buffer => {
    const { requestType } = this.method;
    return Buffer.from(requestType.encode(requestType.fromPartial(request as never)).finish());
  };

  private readonly decode = (bytes: Buffer): unknown => this.method.responseType.decode(bytes);
}

function cancelled(): CallCancelledError {
  return new CallCancelledError("CANCELLED", "Cancelled on client");
}

function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) {
    throw cancelled();
  }
}

/** Listens for an abort until the function that it returns is called. */
function onAbort(signal: AbortSignal | undefined, cancel: () => void): () => void {
  signal?.addEventListener("abort", cancel, { once: true });
  return () => signal?.removeEventListener("abort", cancel);
}

function typed(error: unknown): unknown {
  const isService = error instanceof Error && "code" in error && "metadata" in error && !(error instanceof HedgerowError);
  return isService ? fromServiceError(error as ServiceError) : error;
}
