/** What a node has to know before its first boot, and again before a boot with another network contract. */
export interface NodeSetUp {
  /** The machine's name at its site. */
  readonly name: string;
  readonly vcOut: string;
  readonly keys: PrivateKeys;
}

/** The key pairs that are made for one cluster, in OpenSSH's forms. They lie at its site and on its nodes' disks alone. */
export interface PrivateKeys {
  /** The ssh host key of all nodes. */
  readonly hostKey: KeyPair;
  /** Root's own key, with which nodes reach each other. */
  readonly rootKey: KeyPair;
}

export interface KeyPair {
  readonly private: string;
  /** `ssh-ed25519 AAAA…`, without a comment. */
  readonly public: string;
}

/** Where the cluster's own keys lie in a guest. */
export const KEY_FILES = {
  rootKey: "/etc/vc/id_ed25519",
  rootPublic: "/etc/vc/id_ed25519.pub",
  hostKey: "/etc/vc/ssh_host_ed25519_key",
  hostPublic: "/etc/vc/ssh_host_ed25519_key.pub",
} as const;
