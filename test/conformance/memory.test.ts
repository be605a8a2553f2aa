import { memoryBackend } from "./memory";
import { describeConformance } from "./suite";

describeConformance("memory", memoryBackend);
