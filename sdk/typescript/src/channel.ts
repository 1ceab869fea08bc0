/** A connection over mutual TLS 1.3 that follows the rotation of its certificate without a failed call. */
import { checkServerIdentity, createSecureContext, type PeerCertificate } from "node:tls";

import { Client, credentials } from "@grpc/grpc-js";

import { type Identity, type IdentityFolder, spiffeIdOf } from "./identity.js";

const MAX_MESSAGE_BYTES = 32 * 1024 * 1024;
const CHECK_MILLISECONDS = 1_000;
const READY_MILLISECONDS = 10_000;

/** What gRPC calls an address: several replicas are `ip:port` with commas between them. */
function targetOf(address: string): string {
  return address.includes(",") ? `${address.startsWith("[") ? "ipv6" : "ipv4"}:${address}` : address;
}

/** Returns a client of an address that presents an identity and expects a service, by name and by SPIFFE ID. */
function open(address: string, service: string, identity: Identity): Client {
  const trustDomain = identity.spiffeId.split("/")[2] ?? "";
  const serverName = `${service}.${trustDomain}`;
  const expected = `spiffe://${trustDomain}/service/${service}`;
  const secured = credentials.createFromSecureContext(
    createSecureContext({
      ca: identity.rootsPem,
      key: identity.keyPem,
      cert: identity.chainPem,
      minVersion: "TLSv1.3",
    }),
    {
      checkServerIdentity: (host: string, certificate: PeerCertificate) =>
        checkServerIdentity(host, certificate) ??
        (spiffeIdOf(certificate.subjectaltname) === expected
          ? undefined
          : new Error(`the peer at ${address} is not ${expected}`)),
    },
  );
  return new Client(targetOf(address), secured, {
    "grpc.ssl_target_name_override": serverName,
    "grpc.default_authority": serverName,
    "grpc.max_send_message_length": MAX_MESSAGE_BYTES,
    "grpc.max_receive_message_length": MAX_MESSAGE_BYTES,
    "grpc.keepalive_time_ms": 30_000,
    "grpc.keepalive_timeout_ms": 10_000,
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 1_000,
    "grpc.use_local_subchannel_pool": 1,
    // Calls go round the replicas that are connected.
    "grpc.service_config": JSON.stringify({ loadBalancingConfig: [{ round_robin: {} }] }),
    // Retries are the client's, within its budget.
    "grpc.enable_retries": 0,
    // A proxy variable of the environment must not divert a hop of the suite.
    "grpc.enable_http_proxy": 0,
  });
}

/** One logical connection to one service. */
export class RotatingChannel {
  #identity: Identity;
  #client: Client;
  #nextCheck: number;
  #successor: Client | undefined;
  #closed = false;
  /** How often the certificate was followed. */
  rotations = 0;

  constructor(
    readonly address: string,
    readonly service: string,
    readonly folder: IdentityFolder,
  ) {
    this.#identity = folder.current();
    this.#client = open(address, service, this.#identity);
    this.#nextCheck = Date.now() + CHECK_MILLISECONDS;
  }

  /** The client to make the next call with; looks for a new certificate once a second. */
  current(): Client {
    if (Date.now() >= this.#nextCheck) {
      this.#nextCheck = Date.now() + CHECK_MILLISECONDS;
      this.#follow();
    }
    return this.#client;
  }

  #follow(): void {
    const identity = this.folder.current();
    if (identity === this.#identity || this.#successor !== undefined || this.#closed) {
      return;
    }
    const successor = open(this.address, this.service, identity);
    this.#successor = successor;
    successor.waitForReady(Date.now() + READY_MILLISECONDS, (error) => {
      this.#successor = undefined;
      if (error !== undefined || this.#closed) {
        // The peer is away: stay with the old connection and try again at the next check.
        successor.close();
        return;
      }
      const former = this.#client;
      this.#client = successor;
      this.#identity = identity;
      this.rotations += 1;
      // Calls in progress go on to their end; the connection is let go after the last of them.
      former.close();
    });
  }

  /** Closes the connection. */
  close(): void {
    this.#closed = true;
    this.#successor?.close();
    this.#client.close();
  }
}
