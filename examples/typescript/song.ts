// A song from Node. protos/released.binpb holds the compiled .proto files, so that nothing is generated:
//   npm install && npm run song -- localhost:7860 song.wav ../../protos/released.binpb
import { createWriteStream, readFileSync } from "node:fs";
import { once } from "node:events";
import * as grpc from "@grpc/grpc-js";
import * as protoLoader from "@grpc/proto-loader";

const [target, path, contract] = process.argv.slice(2);
const definition = protoLoader.loadFileDescriptorSetFromBuffer(readFileSync(contract), {
  keepCase: true,
  longs: Number,
  enums: String,
  oneofs: true,
});
const { MusicService } = (grpc.loadPackageDefinition(definition) as any).acestep_rpc.v1;

interface GenerateEvent {
  event: "accepted" | "progress" | "audio_chunk" | "completed";
  progress?: { stage: string; step: number; total: number };
  audio_chunk?: { data: Buffer; offset: number };
  completed?: { songs: { sha256: string; size_bytes: number }[]; warnings: string[] };
}

const client = new MusicService(target, grpc.credentials.createInsecure());
// With TLS and an API key: grpc.credentials.createSsl(), and metadata "authorization": "Bearer acestep_...".
const call: grpc.ClientReadableStream<GenerateEvent> = client.Generate({
  prompt: { tags: "funk, bass, 105 bpm", lyrics: "[verse]\nhello world" },
  sampling: { infer_step: 8 },
  seeds: [7],
  text_to_music: { duration_seconds: 2 },
});

const file = createWriteStream(path);
try {
  for await (const message of call as AsyncIterable<GenerateEvent>) {
    if (message.event === "progress") {
      console.error(message.progress!.stage, `${message.progress!.step}/${message.progress!.total}`);
    } else if (message.event === "audio_chunk") {
      if (!file.write(message.audio_chunk!.data)) await once(file, "drain");
    } else if (message.event === "completed") {
      console.log(message.completed!.songs[0].sha256);
    }
  }
} catch (error) {
  const { code, details } = error as grpc.ServiceError; // details of google.rpc.Status: metadata "grpc-status-details-bin"
  console.error(grpc.status[code], details);
  process.exitCode = 1;
} finally {
  await new Promise<void>((resolve) => file.end(resolve));
  client.close();
}
