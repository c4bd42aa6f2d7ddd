import { packedFrom } from "/work/main/packages/testing/src/packed.ts";
import { compressedTensors } from "/work/main/plugins/compressed-tensors/src/index.ts";
import { hqqPacking } from "/work/main/plugins/hqq/src/index.ts";
const N=4096,K=14336;
const t=(name:any,dtype:any,shape:number[],bytes:number,fill=0x55)=>({name,dtype,shape,data:new Uint8Array(bytes).fill(fill)});
const run=async(label:string,p:any,tensors:any,q:any)=>{const c=packedFrom(tensors,q);const m=await p.open(c);const s=performance.now();await m.weight("m");const a=performance.now()-s; const s2=performance.now();const w=await m.weight("m");const b=performance.now()-s2;
 console.log(label,a.toFixed(0),b.toFixed(0),"ms", (N*K/b/1e3).toFixed(0),"M/s"); return w;};
const [ct,mo,fp8,mx]=compressedTensors().packings! as any;
const cfg=(w:any,f:string)=>({quant_method:"compressed-tensors",format:f,config_groups:{g:{targets:["Linear"],weights:w}}});
const shape=()=>{const x=BigInt64Array.of(BigInt(N),BigInt(K));return {name:"m.weight_shape",dtype:"I64",shape:[2],data:new Uint8Array(x.buffer)}};
const w=await run("pack4 g128",ct,[t("m.weight_packed","I32",[N,K/8],N*K/2),t("m.weight_scale","BF16",[N,K/128],N*K/64,0x3c),shape()],cfg({num_bits:4,type:"int",symmetric:true,strategy:"group",group_size:128},"pack-quantized"));
{const wr=ct.writer({});const s=performance.now();const h=wr.hold(w);const s1=performance.now();wr.pack("m",h);console.log("hold",s1-s,"pack",performance.now()-s1);}
const g=new Int32Array(K).map((_,k)=>k%(K/128));
await run("pack4 g_idx",ct,[t("m.weight_packed","I32",[N,K/8],N*K/2),t("m.weight_scale","BF16",[N,K/128],N*K/64,0x3c),shape(),{name:"m.weight_g_idx",dtype:"I32",shape:[K],data:new Uint8Array(g.buffer)}],cfg({num_bits:4,type:"int",symmetric:true,strategy:"group",group_size:128},"pack-quantized"));
await run("int8",ct,[t("m.weight","I8",[N,K],N*K),t("m.weight_scale","BF16",[N,1],N*2,0x3c)],cfg({num_bits:8,type:"int",symmetric:true,strategy:"channel"},"int-quantized"));
await run("fp8 ch",ct,[t("m.weight","F8_E4M3",[N,K],N*K),t("m.weight_scale","BF16",[N,1],N*2,0x3c)],cfg({num_bits:8,type:"float",symmetric:true,strategy:"channel"},"float-quantized"));
await run("fp8 block",fp8,[t("m.weight","F8_E4M3",[N,K],N*K),t("m.weight_scale_inv","F32",[N/128,K/128],N*K/128/128*4,0x3c)],{quant_method:"fp8",weight_block_size:[128,128]});
await run("mxfp4",ct,[t("m.weight_packed","U8",[N,K/2],N*K/2),t("m.weight_scale","U8",[N,K/32],N*K/32,0x3c)],cfg({num_bits:4,type:"float",symmetric:true,strategy:"group",group_size:32},"mxfp4-pack-quantized"));
await run("nvfp4",ct,[t("m.weight_packed","U8",[N,K/2],N*K/2),t("m.weight_scale","F8_E4M3",[N,K/16],N*K/16,0x3c),t("m.weight_global_scale","F32",[1],4,0x40)],cfg({num_bits:4,type:"float",symmetric:true,strategy:"tensor_group",group_size:16},"nvfp4-pack-quantized"));
const hq=await run("hqq4",hqqPacking,[t("m.W_q","U8",[N*K/128,64],N*K/2),t("m.scale","F16",[N*K/64,1],N*K/32,0x3c),t("m.zero","F16",[N*K/64,1],N*K/32,0x3c)],{quant_method:"hqq",nbits:4,group_size:64,axis:1,shape:[N,K]});
{const wr=hqqPacking.writer!({});const s=performance.now();wr.pack("m",hq);console.log("hqq pack",performance.now()-s);}
{const v=new Float32Array(N*1024).map((_,i)=>Math.sin(i));for(const variant of ["pack-quantized","float-quantized","mxfp4-pack-quantized"]){const s=performance.now();ct.writer({variant}).quantize(v,{out:N,in:1024,role:"x"});console.log("quantize",variant,(N*1024/(performance.now()-s)/1e3).toFixed(1),"M/s")}
 const s=performance.now();hqqPacking.writer!({}).quantize(v,{out:N,in:1024,role:"x"});console.log("quantize hqq",(N*1024/(performance.now()-s)/1e3).toFixed(1),"M/s")}
