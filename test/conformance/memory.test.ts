import { memoryBackend } from "./memory";
import { describeConformance } from "./suite";

describeConformance("memory", () => memoryBackend());
describeConformance("memory, whose MACs are the site's", () => memoryBackend("site"));
