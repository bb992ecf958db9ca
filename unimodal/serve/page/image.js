// Reads a chosen, dropped or pasted file as a data URI that is no larger than a search needs.

import { Problem } from "./api.js";

const SENT_UNCHANGED = ["image/jpeg", "image/png", "image/webp"];
const MAX_BYTES = 1_000_000;
const MAX_SIDE = 1024; // pixels; models read 224 to 512

// Returns "data:image/...;base64,...": the file's own bytes if it is small, otherwise a smaller
// copy, which the browser rotates by its EXIF.
export async function readImage(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    const name = file.name ? `“${file.name}”` : "The pasted content";
    throw new Problem(
      "That is not an image",
      `${name} cannot be read. Use a JPEG, PNG, WebP or GIF.`,
      "Continue without it",
    );
  }
  const scale = Math.min(1, MAX_SIDE / Math.max(bitmap.width, bitmap.height));
  if (scale === 1 && file.size <= MAX_BYTES && SENT_UNCHANGED.includes(file.type)) {
    bitmap.close();
    return dataUri(file);
  }
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff"; // transparent parts become white, as in a shop
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
    reader.onerror = () => reject(
      new Problem("That file cannot be read", "It may have been moved or deleted."),
    );
    reader.readAsDataURL(file);
  });
}

// The image of a drop or paste; without one its first file, which is then refused.
export function imageIn(transfer) {
  const files = [...(transfer?.files ?? [])];
  const image = files.find((file) => file.type.startsWith("image/"));
  return image ?? files[0] ?? null;
}
