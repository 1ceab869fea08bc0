/** One caller's connection to a suite. */
import { readFileSync } from "node:fs";
import { join } from "node:path";

import { RotatingChannel } from "./channel.js";
import { type ServiceClient, serviceClient, type ServiceDefinition } from "./client.js";
import { FeaturesServiceDefinition } from "./gen/hedgerow/features/v1/features.js";
import { GovernanceServiceDefinition } from "./gen/hedgerow/governance/v1/governance.js";
import { InferenceServiceDefinition } from "./gen/hedgerow/inference/v1/inference.js";
import { IngestionServiceDefinition } from "./gen/hedgerow/ingestion/v1/ingestion.js";
import { ModelsServiceDefinition } from "./gen/hedgerow/models/v1/models.js";
import { SecretsServiceDefinition } from "./gen/hedgerow/secrets/v1/secrets.js";
import { TrainingServiceDefinition } from "./gen/hedgerow/training/v1/training.js";
import { IdentityFolder } from "./identity.js";
import { RetryBudget } from "./retry.js";

export type Service = "ingestion" | "features" | "training" | "inference" | "secrets" | "governance";
/** `host:port` by service; the training service also serves the model registry. */
export type Addresses = Readonly<Record<Service, string>>;

interface Link {
  readonly channel: RotatingChannel;
  readonly budget: RetryBudget;
}

/** A client for each service, on one connection for each address; connections open on the first call. */
export class Hedgerow {
  readonly ingestion: ServiceClient<typeof IngestionServiceDefinition>;
  readonly features: ServiceClient<typeof FeaturesServiceDefinition>;
  readonly training: ServiceClient<typeof TrainingServiceDefinition>;
  readonly models: ServiceClient<typeof ModelsServiceDefinition>;
  readonly inference: ServiceClient<typeof InferenceServiceDefinition>;
  readonly secrets: ServiceClient<typeof SecretsServiceDefinition>;
  readonly governance: ServiceClient<typeof GovernanceServiceDefinition>;

  private constructor(
    private readonly links: ReadonlyMap<Service, Link>,
    /** The purpose that every call states. */
    readonly purpose: string,
  ) {
    const client = <D extends ServiceDefinition>(service: Service, definition: D): ServiceClient<D> => {
      const link = links.get(service)!;
      return serviceClient(definition, link.channel, link.budget, purpose);
    };
    this.ingestion = client("ingestion", IngestionServiceDefinition);
    this.features = client("features", FeaturesServiceDefinition);
    this.training = client("training", TrainingServiceDefinition);
    this.models = client("training", ModelsServiceDefinition);
    this.inference = client("inference", InferenceServiceDefinition);
    this.secrets = client("secrets", SecretsServiceDefinition);
    this.governance = client("governance", GovernanceServiceDefinition);
  }

  /**
   * Connects with the identity in a folder to the services at their addresses.
   *
   * @throws UnauthenticatedError the folder holds no usable identity.
   */
  static connect(identityFolder: string, addresses: Addresses, options: { purpose?: string } = {}): Hedgerow {
    const folder = new IdentityFolder(identityFolder);
    const links = Object.entries(addresses).map(([service, address]) => {
      return [service, { channel: new RotatingChannel(address, service, folder), budget: new RetryBudget() }] as const;
    });
    return new Hedgerow(new Map(links) as Map<Service, Link>, options.purpose ?? "");
  }

  /** Connects as a person who logged in with `hedgerow login`, to the suite that a context folder tells of. */
  static fromContext(contextFolder: string, user: string, options: { purpose?: string } = {}): Hedgerow {
    const { addresses } = JSON.parse(readFileSync(join(contextFolder, "context.json"), "utf8")) as { addresses: Addresses };
    return Hedgerow.connect(join(contextFolder, "users", user), addresses, options);
  }

  /** Returns the same connection, with every call stating this purpose; close only one of the two. */
  forPurpose(purpose: string): Hedgerow {
    return new Hedgerow(this.links, purpose);
  }

  /** How often the connection to a service followed a renewed certificate. */
  rotations(service: Service): number {
    return this.links.get(service)?.channel.rotations ?? 0;
  }

  /** Closes all connections. */
  close(): void {
    for (const { channel } of this.links.values()) {
      channel.close();
    }
  }
}
