// A chosen, dropped or pasted file -> a data URI, made no larger than a search needs.

import { Problem } from "./api.js";

const SENT_AS_IT_IS = ["image/jpeg", "image/png", "image/webp"];
const MOST_BYTES = 1_000_000;
const LONGEST_SIDE = 1024; // pixels; towers see 224 to 512

// -> "data:image/...;base64,...": the file's own bytes if it is small, else redrawn (the browser turns it as EXIF says).
export async function readPicture(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    const name = file.name ? `“${file.name}”` : "What was pasted";
    throw new Problem("That is no picture", `${name} cannot be read as one. JPEG, PNG, WebP and GIF work everywhere.`,
      "Go on without it");
  }
  const scale = Math.min(1, LONGEST_SIDE / Math.max(bitmap.width, bitmap.height));
  if (scale === 1 && file.size <= MOST_BYTES && SENT_AS_IT_IS.includes(file.type)) {
    bitmap.close();
    return dataUri(file);
  }
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff"; // what is transparent is drawn on white, as in a shop
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return canvas.toDataURL("image/jpeg", 0.92);
}

function dataUri(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Problem("That file cannot be read", "It may have been moved or deleted."));
    reader.readAsDataURL(file);
  });
}

export function pictureIn(transfer) {
  return [...(transfer?.files ?? [])].find((file) => file.type.startsWith("image/")) ?? transfer?.files?.[0] ?? null;
}
