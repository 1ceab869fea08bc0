/** The TypeScript SDK of Hedgerow: every RPC of every service, typed, over mutual TLS. */
export type { CallOptions, Partially, ServiceClient } from "./client.js";
export * from "./errors.js";
export * as features from "./gen/hedgerow/features/v1/features.js";
export * as governance from "./gen/hedgerow/governance/v1/governance.js";
export * as inference from "./gen/hedgerow/inference/v1/inference.js";
export * as ingestion from "./gen/hedgerow/ingestion/v1/ingestion.js";
export * as models from "./gen/hedgerow/models/v1/models.js";
export * as secrets from "./gen/hedgerow/secrets/v1/secrets.js";
export * as training from "./gen/hedgerow/training/v1/training.js";
export { type Addresses, Hedgerow, type Service } from "./hedgerow.js";
export { IdentityFolder } from "./identity.js";
export { RetryBudget } from "./retry.js";
